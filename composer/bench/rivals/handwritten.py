"""The rival: a Dreamer-style model as a careful researcher writes it by hand, in plain PyTorch.

One recurrent step of sequence attention, depth attention and experts, and a loop around it. It computes what
the compiled module computes, with weights of the same names, so that the two can be compared to the last
digits. It is written to be fast: merged projections, PyTorch's fused attention, grouped products for experts
between gathers whose backward passes are gathers, weights cast once for each forward pass, no wait for the
device, depth attention in several ways (see `handwritten_depth.py`), and all but that in functions that
compile once. A strawman would be worth nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocks.base.config import Config
from composer.bench.rivals.handwritten_depth import WAYS, Past, Way
from composer.language.schema.levels import shortest
from composer.language.schema.spec import Spec
from composer.settings.errors import SpecError

_EPS = 1e-6
_HEADS = ("heads", "kv_heads", "head_dim")


@dataclass(frozen=True)
class Sizes:
    """The sizes of a Dreamer: one recurrent stage of these three blocks, in this order."""

    blocks: tuple[str, str, str]
    width: int
    vocab: int
    steps: int
    heads: int
    kv_heads: int
    head_dim: int
    qk_norm: bool
    depth_heads: int
    depth_kv_heads: int
    experts: int
    active: int
    hidden: int
    tied: bool


def sizes(spec: Spec) -> Sizes:
    """Read the sizes of a spec.

    Raises:
        SpecError: it is no Dreamer of the plain form that is written out here.
    """
    spec = shortest(spec)
    stage, *more = spec.stages
    blocks: list[Any] = [spec.blocks[name] for name in stage.step if isinstance(name, str)]
    if (
        more
        or len(blocks) < len(stage.step)
        or [block.type for block in blocks]
        != [
            "sequence_attention",
            "depth_attention",
            "expert_attention",
        ]
    ):
        raise _unlike(spec, ("stages",), "one `recur` stage of sequence, depth and expert attention")
    seq, depth, expert = blocks
    plain = {
        ("model",): spec.model.changed_options().keys() <= {"tie_embeddings"},
        ("stages", 0): isinstance(stage.recur, int) and not stage.changed_options(),
        ("blocks", stage.step[0]): _changed(seq) <= {*_HEADS, "qk_norm"},
        ("blocks", stage.step[1]): _changed(depth) <= {*_HEADS},
        ("blocks", stage.step[2]): _changed(expert) <= {"experts", "active", "hidden", "balance_rate"},
    }
    for path, holds in plain.items():
        if not holds:
            raise _unlike(spec, path, "the defaults, which are what is written by hand")
    heads, kv_heads, head_dim = seq.geometry(spec.model.width)
    depth_heads, depth_kv_heads, depth_dim = depth.geometry(spec.model.width)
    if head_dim != depth_dim:
        raise _unlike(spec, ("blocks", stage.step[1]), f"heads of {head_dim}, as in sequence attention")
    first, second, third = map(str, stage.step)
    return Sizes(
        (first, second, third),
        spec.model.width,
        spec.model.vocab,
        stage.trips,
        heads,
        kv_heads,
        head_dim,
        seq.qk_norm,
        depth_heads,
        depth_kv_heads,
        expert.experts,
        expert.active,
        expert.hidden,
        spec.model.tie_embeddings,
    )


def _changed(block: Config) -> set[str]:
    """Return the fields of a block that are not at their defaults."""
    return {*block.model_dump(exclude_defaults=True)}


def _unlike(spec: Spec, path: tuple[Any, ...], expected: str) -> SpecError:
    return SpecError([spec.fault_at(path, expected, "another form")])


@dataclass(frozen=True)
class Cast:
    """The weights of products in the dtype of these, cast once for all steps.

    Autocast keeps what it casts too, but not within functions that are compiled, and grouped products it does
    not reach at all.

    Attributes:
        seq_in: [(heads + 2 kv_heads) head_dim, width].
        seq_out: [width, heads head_dim].
        depth_in: [(depth_heads + 2 depth_kv_heads) head_dim, width].
        depth_out: [width, depth_heads head_dim].
        gate_up: [experts, width, 2 hidden].
        down: [experts, hidden, width].
    """

    seq_in: Tensor
    seq_out: Tensor
    depth_in: Tensor
    depth_out: Tensor
    gate_up: Tensor
    down: Tensor


class Step(nn.Module):
    """One recurrent step, in pieces: all but `attend` are the same at every step, so they compile once."""

    load: Tensor
    balance: Tensor

    def __init__(self, at: Sizes, way: Way) -> None:
        super().__init__()
        self.at, self.attend = at, WAYS[way]
        width, head_dim = at.width, at.head_dim
        self.norms = nn.ParameterList(nn.Parameter(torch.ones(width)) for _ in range(3))
        self.seq_in = nn.Linear(width, (at.heads + 2 * at.kv_heads) * head_dim, bias=False)
        self.seq_out = nn.Linear(at.heads * head_dim, width, bias=False)
        if at.qk_norm:
            self.query_norm = nn.Parameter(torch.ones(head_dim))
            self.key_norm = nn.Parameter(torch.ones(head_dim))
        self.depth_joined = nn.Linear(width, (at.depth_heads + 2 * at.depth_kv_heads) * head_dim, bias=False)
        self.depth_back = nn.Linear(at.depth_heads * head_dim, width, bias=False)
        self.keys = nn.Parameter(torch.empty(at.experts, width))
        self.gate_up = nn.Parameter(torch.empty(at.experts, width, 2 * at.hidden))
        self.down = nn.Parameter(torch.empty(at.experts, at.hidden, width))
        self.register_buffer("balance", torch.zeros(at.experts))
        self.register_buffer("load", torch.zeros(at.experts))

    def cast(self, dtype: torch.dtype) -> Cast:
        """Return the weights of products in a dtype."""
        linear = (self.seq_in, self.seq_out, self.depth_joined, self.depth_back)
        return Cast(*(each.to(dtype) for each in (*(it.weight for it in linear), self.gate_up, self.down)))

    def forward(
        self, x: Tensor, past: Past, turns: Tensor, turn: Tensor, turn_wide: Tensor, weights: Cast
    ) -> Tensor:
        """Return the state [B, S, width] after the step; its own keys and values join those of the past.

        turns: cosine and sine by position; turn, turn_wide: those of this step, for a head and for the whole
        width.
        """
        x, query, key, value = self.before(x, turns, turn, weights)
        return self.after(x, self.attend(query, key, value, past), turn_wide, weights)

    def before(
        self, x: Tensor, turns: Tensor, turn: Tensor, weights: Cast
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run all that comes before depth attention; return the state, and query, key and value of that."""
        x = self.sequence(x, turns, weights)
        return x, *self.depth_in(x, turn, weights)

    def after(self, x: Tensor, y: Tensor, turn: Tensor, weights: Cast) -> Tensor:
        """Run all that comes after depth attention, which made y; return the state."""
        x, normed, share, chosen = self.depth_out(x, y, turn, weights)
        return x + self.expert(normed, share, chosen, weights)

    def sequence(self, x: Tensor, turns: Tensor, weights: Cast) -> Tensor:
        """Attend to all tokens up to each token; return the new state."""
        at, (batch, length, _) = self.at, x.shape
        joined = F.linear(self._normed(x, 0), weights.seq_in)
        joined = joined.view(batch, length, at.heads + 2 * at.kv_heads, at.head_dim)
        query, key, value = joined.split_with_sizes([at.heads, at.kv_heads, at.kv_heads], 2)
        if at.qk_norm:
            # in fp32, as autocast on a GPU has it and as rotations need it
            query = F.rms_norm(query.float(), (at.head_dim,), self.query_norm, _EPS)
            key = F.rms_norm(key.float(), (at.head_dim,), self.key_norm, _EPS)
        query, key = _turned(query, turns), _turned(key, turns)
        y = F.scaled_dot_product_attention(
            query.transpose(1, 2).to(value.dtype),
            key.transpose(1, 2).to(value.dtype),
            value.transpose(1, 2),
            is_causal=True,
            enable_gqa=at.heads != at.kv_heads,
        )
        return x + F.linear(y.transpose(1, 2).flatten(2), weights.seq_out)

    def depth_in(self, x: Tensor, turn: Tensor, weights: Cast) -> tuple[Tensor, Tensor, Tensor]:
        """Return this step's query, key and value."""
        at, (batch, length, _) = self.at, x.shape
        joined = F.linear(self._normed(x, 1), weights.depth_in)
        joined = joined.view(batch, length, at.depth_heads + 2 * at.depth_kv_heads, at.head_dim)
        query, key, value = joined.split_with_sizes([at.depth_heads, at.depth_kv_heads, at.depth_kv_heads], 2)
        return _turned(query, turn), _turned(key, turn), value

    def depth_out(
        self, x: Tensor, y: Tensor, turn: Tensor, weights: Cast
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the state after depth attention, the same normed, the shares and numbers of its experts."""
        at = self.at
        x = x + F.linear(y.flatten(2), weights.depth_out)
        normed = self._normed(x, 2)
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(_turned(normed.float(), turn), self.keys) * at.width**-0.5
        chosen = (logits.detach() + self.balance).topk(at.active, -1).indices
        scores = logits.sigmoid().gather(-1, chosen)
        return x, normed, scores / scores.sum(-1, keepdim=True), chosen

    def expert(self, x: Tensor, share: Tensor, chosen: Tensor, weights: Cast) -> Tensor:
        """Run each token's experts in two grouped products, sum them by share."""
        at = self.at
        flat = chosen.flatten()
        # counted so, for `bincount` waits for a GPU
        counts = torch.zeros_like(self.load).index_add_(0, flat, torch.ones_like(flat, dtype=torch.float32))
        if self.training:
            self.load += counts
        order = flat.argsort(stable=True)
        place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        ends = counts.cumsum(0).to(torch.int32)
        # cast before they are fetched, as each is fetched for several experts
        rows = _fetched(x.flatten(0, 1).to(weights.gate_up.dtype), order, place, at.active)
        gate, up = F.grouped_mm(rows, weights.gate_up, offs=ends).chunk(2, -1)
        # weighed where rows are `hidden` wide
        inner = F.silu(gate) * up * _fetched(share.flatten(), order, place, 1).to(up.dtype).unsqueeze(-1)
        out = F.grouped_mm(inner, weights.down, offs=ends)
        made: Tensor = _Summed.apply(out, order, place, at.active)  # type: ignore[no-untyped-call]
        return made.view(x.shape)

    def _normed(self, x: Tensor, number: int) -> Tensor:
        return F.rms_norm(x, (self.at.width,), self.norms[number], _EPS)


def _fetched(x: Tensor, order: Tensor, place: Tensor, active: int) -> Tensor:
    """Return rows [tokens * active, ...] of x [tokens, ...], by expert.

    order: which of each token's `active` choices comes at each row; place: the row of each choice.
    """
    made: Tensor = _Fetched.apply(x, order, place, active)  # type: ignore[no-untyped-call]
    return made


class _Fetched(torch.autograd.Function):
    """Autograd would add up gradients of rows by atomics; it does not know that each row is there once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, place: Tensor, active: int) -> Tensor:
        ctx.save_for_backward(place)
        ctx.active = active
        return x.index_select(0, order // active)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (place,) = ctx.saved_tensors
        return _summed(gradient, place, ctx.active), None, None, None


class _Summed(torch.autograd.Function):
    """The reverse: the rows of each token's experts fetched and summed, always in the same order."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, place: Tensor, active: int) -> Tensor:
        ctx.save_for_backward(order)
        ctx.active = active
        return _summed(rows, place, active)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (order,) = ctx.saved_tensors
        return gradient.index_select(0, order // ctx.active), None, None, None


def _summed(rows: Tensor, place: Tensor, active: int) -> Tensor:
    fetched = rows.index_select(0, place).view(-1, active, *rows.shape[1:])
    return fetched.sum(1, dtype=rows.dtype)


class HandWritten(nn.Module):
    """Embedding, the step `steps` times, final norm, the head (the embedding, if tied), the loss."""

    def __init__(self, at: Sizes, way: Way) -> None:
        super().__init__()
        self.at = at
        self.embedding = nn.Parameter(torch.empty(at.vocab, at.width))
        self.step = Step(at, way)
        self.norm = nn.Parameter(torch.ones(at.width))
        self.head = self.embedding if at.tied else nn.Parameter(torch.empty(at.vocab, at.width))

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy of targets [B, S] that are not -100."""
        at, device = self.at, tokens.device
        x = F.embedding(tokens, self.embedding) * math.sqrt(at.width)
        turns = _turns(torch.arange(tokens.shape[1], device=device), at.head_dim)[:, :, None]
        steps = torch.arange(at.steps, device=device)
        # laid out by step, so that one step's do not depend on how many there are
        turn, turn_wide = (_turns(steps, size).movedim(1, 0).contiguous() for size in (at.head_dim, at.width))
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else x.dtype
        weights = self.step.cast(dtype)
        past = Past(at.steps)
        for n in range(at.steps):
            x = self.step(x, past, turns, turn[n], turn_wide[n], weights)
        return self.tail(x, targets)

    def tail(self, x: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy from the last state [B, S, width]."""
        logits = F.linear(F.rms_norm(x, (self.at.width,), self.norm, _EPS), self.head)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of the compiled module, by the names of its state_dict."""
        own = self.step
        at = [f"stages.0.step.{n}" for n in range(3)]
        seq, depth, expert = (f"{place}.{name}" for place, name in zip(at, self.at.blocks, strict=True))
        inward = ("query", "key", "value")
        taken: list[tuple[Tensor, Tensor]] = [
            (self.embedding, weights["embedding"]),
            (self.norm, weights["norm"]),
            *((norm, weights[f"{place}.norm"]) for norm, place in zip(own.norms, at, strict=True)),
            (own.seq_in.weight, torch.cat([weights[f"{seq}.{role}"] for role in inward])),
            (own.seq_out.weight, weights[f"{seq}.out"]),
            (own.depth_joined.weight, torch.cat([weights[f"{depth}.{role}"] for role in inward])),
            (own.depth_back.weight, weights[f"{depth}.out"]),
            *(
                (getattr(own, role), weights[f"{expert}.{role}"])
                for role in ("keys", "gate_up", "down", "balance")
            ),
        ]
        if not self.at.tied:
            taken.append((self.head, weights["head"]))
        if self.at.qk_norm:
            taken += [(getattr(own, role), weights[f"{seq}.{role}"]) for role in ("query_norm", "key_norm")]
        with torch.no_grad():
            for tensor, given in taken:
                tensor.copy_(given)


def _turns(index: Tensor, size: int) -> Tensor:
    """Return cosines and sines [2, len(index), size / 2] of the rotations at each index."""
    pair = torch.arange(size // 2, device=index.device, dtype=torch.float32)
    angle = index[:, None] * 10000.0 ** (-2 * pair / size)
    return torch.stack([angle.cos(), angle.sin()])


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of the last dimension."""
    pairs = x.float().reshape(*x.shape[:-1], -1, 2)
    if torch.compiler.is_compiling():
        # inductor does not fuse complex numbers
        even, odd = pairs.unbind(-1)
        cos, sin = turn
        return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)
    turned = torch.view_as_complex(pairs.contiguous()) * torch.complex(turn[0], turn[1])
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)
