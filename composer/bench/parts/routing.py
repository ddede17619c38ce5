"""Routing, from logits to a permutation, and the block of experts against its two grouped products alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.expert_attention import reference
from blocks.ir.operation import Operation
from blocks.kernels.gpu import off_triton
from composer.bench.measuring import floors
from composer.bench.measuring.clocks import Run, without_gradients
from composer.bench.measuring.records import Goal, Row
from composer.bench.measuring.setting import NO_COMPILER, Case, Setting, measured
from composer.bench.parts.operations import Call, captured, cast, running
from composer.graph.passes.choose_kernels import unfit
from composer.language.load import loads
from composer.module.model import ComposedModel

OURS, BY_TORCH, EAGER, COMPILED, ALONE = (
    "composer",
    "composer, first product by torch",
    "eager torch",
    "compiled by torch",
    "its two grouped products alone",
)
_ROUTED = 30e-6
_SPEED = 0.85
_SPEC = """\
schema: 1
name: experts
model: {width: 1, vocab: 1024, context: 1}
blocks: {expert: {type: expert_attention, experts: 1, active: 1, hidden: 1, depth_code: none}}
stages: [{stack: 1, step: [expert]}]
"""


class Size(NamedTuple):
    """Tokens in one batch, and the sizes of the block."""

    tokens: int
    width: int
    experts: int
    active: int
    hidden: int

    def __str__(self) -> str:
        sizes = f"{self.experts} experts of {self.hidden}, k {self.active}"
        return f"{self.tokens} tokens, width {self.width}, {sizes}"


FULL = (Size(16384, 1024, 256, 8, 256), Size(8192, 1024, 64, 4, 512))
SMALL = (Size(96, 32, 16, 2, 16),)


def parts(setting: Setting) -> Iterator[list[Row]]:
    """Measure every case; goals are set for the first size."""
    for number, size in enumerate(FULL if setting.full else SMALL):
        yield measured(routing(size, setting, judged=number == 0), setting)
        yield measured(block(size, setting, judged=number == 0), setting)


def routing(size: Size, setting: Setting, judged: bool) -> Case:
    """From logits in fp32 to weights, the choices sorted by expert, and where those of each expert end."""
    logits = torch.randn(size.tokens, size.experts, device=setting.device)
    balance = torch.zeros(size.experts, device=setting.device)
    given = (logits, balance, torch.zeros_like(balance), size.active)
    contestants: dict[str, Callable[[], Run]] = {EAGER: lambda: without_gradients(sort_eagerly, *given)}
    if setting.compiles:
        contestants[COMPILED] = lambda: without_gradients(_compiled(sort_eagerly), *given)
    skipped = {} if setting.compiles else {COMPILED: NO_COMPILER}
    if why := _unfit(setting):
        skipped[OURS] = why
    else:
        contestants[OURS] = lambda: without_gradients(_own_routing, *given)
    return Case(
        str(size),
        "logits to permutation",
        contestants,
        [OURS],
        EAGER,
        size.tokens * floors.routing(size.experts, size.active),
        goals=_routed if judged else lambda row: (),
        skipped=skipped,
    )


def sort_eagerly(logits: Tensor, balance: Tensor, load: Tensor, active: int) -> tuple[Tensor, ...]:
    """Return weights, the permutation that sorts choices by expert, and the row after each expert's last.

    Counts by a scatter-add rather than `bincount`, which waits for the GPU.
    """
    chosen = (logits + balance).topk(active, -1).indices
    scores = logits.gather(-1, chosen).sigmoid()
    flat = chosen.flatten()
    counts = torch.zeros_like(load).index_add_(0, flat, torch.ones_like(flat, dtype=load.dtype))
    load += counts
    return scores / scores.sum(-1, keepdim=True), flat.argsort(stable=True), counts.cumsum(0).to(torch.int32)


def block(size: Size, setting: Setting, judged: bool) -> Case:
    """The block forward, as a model runs it: route, gather, products, gate, scatter."""
    calls = calls_of(size, setting)
    x, weights = calls[-1].inputs[0], {tuple(each.shape): each for call in calls for each in call.weights}
    keys = weights[size.experts, size.width]
    gate_up = weights[size.experts, size.width, 2 * size.hidden]
    down = weights[size.experts, size.hidden, size.width]
    with torch.no_grad(), cast(setting):
        narrow = reference.cast(gate_up, down)
    balance = torch.zeros(size.experts, device=setting.device)
    given = (x, keys, balance, torch.zeros_like(balance), *narrow, size.active)
    contestants: dict[str, Callable[[], Run]] = {
        OURS: lambda: _chain(calls, setting),
        EAGER: lambda: without_gradients(run_eagerly, *given),
        ALONE: lambda: _alone(*given),
    }
    if plain := _with_torch(calls, setting):
        contestants[BY_TORCH] = lambda: _chain(plain, setting)
    if setting.compiles and setting.device.type == "cuda":
        # fake tensors know grouped products in bf16 alone
        contestants[COMPILED] = lambda: without_gradients(_compiled(run_eagerly), *given)
    return Case(
        str(size),
        "block forward",
        contestants,
        [OURS, BY_TORCH],
        ALONE,
        flops=6 * size.tokens * size.active * size.width * size.hidden,
        goals=_fast if judged else lambda row: (),
    )


def run_eagerly(
    x: Tensor, keys: Tensor, balance: Tensor, load: Tensor, gate_up: Tensor, down: Tensor, active: int
) -> Tensor:
    """Run the block in plain PyTorch, without a wait for the GPU: rows sorted by expert, then put back."""
    tokens = x.flatten(0, 1)
    with torch.autocast(x.device.type, enabled=False):
        logits = F.linear(tokens.float(), keys) * keys.shape[1] ** -0.5
    weights, order, ends = sort_eagerly(logits, balance, load, active)
    rows = tokens[order // active].to(gate_up.dtype)
    gate, up = F.grouped_mm(rows, gate_up, offs=ends).chunk(2, -1)
    inner = F.silu(gate) * up * weights.flatten()[order, None].to(up.dtype)
    out = F.grouped_mm(inner, down, offs=ends)
    back = torch.empty_like(out).index_copy_(0, order, out)
    return back.view(len(tokens), active, -1).sum(1, dtype=out.dtype).view(x.shape)


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # for its own sizes, as those are all it runs at
    return torch.compile(function, dynamic=False)


def calls_of(size: Size, setting: Setting) -> list[Call]:
    """Return the operations of the block as a model calls them."""
    path = "blocks.expert"
    changes = (
        f"model.width={size.width}",
        f"model.context={size.tokens}",
        f"{path}.experts={size.experts}",
        f"{path}.active={size.active}",
        f"{path}.hidden={size.hidden}",
    )
    spec = loads(_SPEC, "experts", changes)
    model = ComposedModel(spec, recompute=()).to(setting.device).train()
    # so many different tokens that all experts have some
    tokens, targets = torch.randint(spec.model.vocab, (2, 1, size.tokens), device=setting.device)
    with cast(setting):
        calls = captured(model, tokens, targets)
    return [call for call in calls if type(call.operation).__module__.startswith("blocks.expert_attention")]


def _chain(calls: Sequence[Call], setting: Setting) -> Run:
    """Run the operations one after the other, each on what it was given in the model."""
    runs = [running(call, call.kernel, False, setting) for call in calls]
    return lambda: [run() for run in runs]


def _with_torch(calls: Sequence[Call], setting: Setting) -> list[Call]:
    """Return calls whose first product is torch's; none if it is so already."""
    replaced = []
    for call in calls:
        kernels = [each for each in call.operation.kernels if not _gathers(each.specialize(call.operation))]
        fits = (each for each in kernels if not unfit(each, call.operation, setting.target))
        replaced.append(replace(call, kernel=next(fits)) if _gathers(call.operation) else call)
    return replaced if any(_gathers(call.operation) for call in calls) else []


def _gathers(operation: Operation) -> bool:
    return bool(getattr(operation, "gathered", False))


def _alone(
    x: Tensor, keys: Tensor, balance: Tensor, load: Tensor, gate_up: Tensor, down: Tensor, active: int
) -> Run:
    """Return the two products on rows that are sorted already."""
    _, indices = reference.route(x, keys, balance, load, active)
    ends = torch.bincount(indices.flatten(), minlength=len(keys)).cumsum(0).to(torch.int32)
    rows = torch.randn(indices.numel(), x.shape[-1], device=x.device).to(gate_up.dtype)
    inner = torch.randn(len(rows), down.shape[1], device=x.device).to(down.dtype)

    def run() -> object:
        return F.grouped_mm(rows, gate_up, offs=ends), F.grouped_mm(inner, down, offs=ends)

    return without_gradients(run)


def _own_routing(logits: Tensor, balance: Tensor, load: Tensor, active: int) -> Any:
    from blocks.expert_attention import route_kernel

    routed = route_kernel.route(logits, balance, 1.0, active)
    load += routed.counts
    return routed


def _unfit(setting: Setting) -> str:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return off_triton(None, replace(setting.target, device="cuda") if interpreted else setting.target)


def _routed(row: Row) -> list[Goal]:
    return [Goal(f"at most {_ROUTED * 1e6:.0f} us", _ROUTED, row.seconds or float("inf"), least=False)]


def _fast(row: Row) -> list[Goal]:
    got = 1 / row.against[0] if row.against else 0.0
    return [Goal(f"at least {_SPEED:.0%} of the speed of its products alone", _SPEED, got)]
