"""Depth attention: one step forward, forward and backward, and the backward pass of a whole loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from blocks.depth_attention import reference
from blocks.depth_attention.backward_method import backward_method
from blocks.depth_attention.operations import Attend, WriteKV
from blocks.ir.operation import LoopIndex
from blocks.kernels.slot_memory import slots
from composer.bench.measuring import floors
from composer.bench.measuring.clocks import Run, without_gradients
from composer.bench.measuring.floors import Heads, Way
from composer.bench.measuring.records import Goal, Row
from composer.bench.measuring.setting import Case, Setting, measured
from composer.graph.passes.choose_kernels import first_fit
from composer.module.emission.emit import resolve

EAGER, COMPILED, STACK = "eager einsum, stacked list", "compiled elementwise", "stack of keys, values alone"


class Size(NamedTuple):
    """Tokens in one batch, and the heads."""

    tokens: int
    heads: int
    kv_heads: int
    head_dim: int


FULL = ((32768, 16, 16, 64), (32768, 16, 4, 64))
SMALL = ((64, 4, 4, 16), (64, 4, 1, 16))
READS = {True: (4, 16, 32), False: (1, 3)}
"""Number of slots that one step reads, at full size and small."""
STEPS = {True: 16, False: 3}
"""Number of steps of the loop."""


def parts(setting: Setting) -> Iterator[list[Row]]:
    """Measure every case."""
    for size in (Size(*each) for each in (FULL if setting.full else SMALL)):
        for reads in READS[setting.full]:
            yield measured(forward(size, reads, setting), setting)
            yield measured(both(size, reads, setting), setting)
        yield measured(loop(size, STEPS[setting.full], setting), setting)


class Fitting(NamedTuple):
    """The best kernels that fit here: names and functions."""

    name: str
    append: Callable[..., Tensor]
    attend: Callable[..., Tensor]


def fitting(size: Size, setting: Setting) -> Fitting:
    """Choose kernels as a model does: the best one that fits and passes its self-test."""
    kv = (size.kv_heads, size.head_dim)
    write, read = WriteKV(*kv), Attend(size.heads, *kv, "inclusive", reads=LoopIndex(1))
    chosen = [first_fit(each, setting.target) for each in (write, read)]
    return Fitting(f"composer, {chosen[1].name}", *(resolve(each.function) for each in chosen))


def forward(size: Size, reads: int, setting: Setting) -> Case:
    """One step forward, with slots written before; stacking a list of slots is timed separately."""
    drawn = Drawn(size, reads, setting)
    fits = fitting(size, setting)
    contestants: dict[str, Callable[[], Run]] = {
        fits.name: lambda: drawn.ours(fits),
        EAGER: lambda: without_gradients(stacked_einsum, drawn.query, drawn.listed),
        STACK: lambda: partial(_stacked, drawn.listed),
    }
    if setting.compiles:
        contestants[COMPILED] = lambda: without_gradients(_compiled(), *drawn.tensors)
    for name, backend in _backends(setting):
        contestants[f"SDPA {name}"] = partial(_attention, drawn, backend)
    at = heads(size, setting)
    return Case(
        _named(size, reads),
        "forward",
        contestants,
        [fits.name],
        fits.name,
        size.tokens * floors.depth_forward(at, reads),
        floors={STACK: size.tokens * 2 * reads * at.slot},
        goals=lambda row: _share(row, 0.9 if size.kv_heads == size.heads else 0.85),
    )


def both(size: Size, reads: int, setting: Setting) -> Case:
    """One step forward and backward, with the gradients of queries and of all slots read."""
    drawn = Drawn(size, reads, setting)
    fits = fitting(size, setting)
    contestants: dict[str, Callable[[], Run]] = {
        fits.name: lambda: drawn.ours(fits, backward=True),
        EAGER: lambda: drawn.by_hand(stacked_einsum, [*drawn.listed[0], *drawn.listed[1]], listed=True),
    }
    if setting.compiles:
        contestants[COMPILED] = lambda: drawn.by_hand(_compiled(), [*drawn.tensors[1:]])
    return Case(
        _named(size, reads),
        "forward + backward",
        contestants,
        [fits.name],
        fits.name,
        size.tokens * floors.depth_both(heads(size, setting), reads),
        goals=lambda row: _share(row, 0.75 if size.kv_heads == size.heads else 0.7),
    )


def loop(size: Size, steps: int, setting: Setting) -> Case:
    """The backward pass of a loop in which each step appends and reads what was appended so far."""
    fits, at = fitting(size, setting), heads(size, setting)
    bytes_of = {way: size.tokens * floors.depth_loop(at, steps, way) for way in _WAYS}
    contestants: dict[str, Callable[[], Run]] = {}
    own = fits.attend is not reference.attend
    ways = {f"{fits.name}, {way}": way for way in _WAYS} if own else {fits.name: None}
    for name, way in ways.items():
        contestants[name] = partial(_backward, size, steps, setting, fits, way)
    contestants[EAGER] = partial(_backward, size, steps, setting, None, None)
    chosen = next((name for name, way in ways.items() if way == _chosen(at, steps)), fits.name)
    return Case(
        _named(size, steps, "T"),
        "backward of the loop",
        contestants,
        [*ways],
        chosen,
        min(bytes_of.values()),
        floors={name: bytes_of[way] for name, way in ways.items() if way},
        goals=lambda row: _times(row, 1.35) if row.name == chosen else (),
    )


_WAYS: tuple[Way, ...] = ("pull", "push")


def heads(size: Size, setting: Setting) -> Heads:
    """Return the sizes for the formulas of floors."""
    return Heads(size.heads, size.kv_heads, size.head_dim, setting.dtype.itemsize)


def _chosen(at: Heads, steps: int) -> Way:
    return backward_method(at.heads, at.kv_heads, at.head_dim, steps, at.element)


class Drawn:
    """Random queries, slots (as a list, one tensor, and a model's cache), and output gradients."""

    def __init__(self, size: Size, reads: int, setting: Setting) -> None:
        self.size, self.reads = size, reads
        draw = partial(torch.randn, device=setting.device, dtype=setting.dtype)
        self.query = draw(1, size.tokens, size.heads, size.head_dim)
        self.gradient = draw(1, size.tokens, size.heads, size.head_dim)
        kv = (reads, 1, size.tokens, size.kv_heads, size.head_dim)
        self.keys, self.values = draw(kv), draw(kv)

    @property
    def listed(self) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values as a list of steps, as a loop produces them."""
        return [*self.keys.unbind()], [*self.values.unbind()]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Query, keys and values."""
        return self.query, self.keys, self.values

    def ours(self, fits: Fitting, backward: bool = False) -> Run:
        """Attend as a model does; backward through the read and all appends."""
        memory, token = slots(self.query[..., 0, 0], self.reads, *self.keys.shape[3:])
        leaves = [self.query, *self.keys.unbind(), *self.values.unbind()]
        if backward:
            leaves = [each.clone().requires_grad_() for each in leaves]
        query, keys, values = leaves[0], leaves[1 : 1 + self.reads], leaves[1 + self.reads :]
        for n, (key, value) in enumerate(zip(keys, values, strict=True)):
            token = fits.append(key, value, token, memory, n)
        if not backward:
            return without_gradients(partial(fits.attend, reads=self.reads), query, token, memory)

        def run() -> Any:
            # a separate forward pass, as far as the cache knows
            memory.reads = 0
            out = fits.attend(query, token, memory, reads=self.reads)
            # the appends' autograd history is built once, outside of the timing
            return torch.autograd.grad(out, leaves, self.gradient, retain_graph=True)

        return run

    def by_hand(self, function: Callable[..., Tensor], given: list[Tensor], listed: bool = False) -> Run:
        """Return forward and backward of a function of the query and of slots."""
        leaves = [each.detach().clone().requires_grad_() for each in (self.query, *given)]
        half = 1 + len(given) // 2
        inner = [(leaves[1:half], leaves[half:])] if listed else leaves[1:]

        def run() -> Any:
            return torch.autograd.grad(function(leaves[0], *inner), leaves, self.gradient)

        return run


def stacked_einsum(query: Tensor, listed: tuple[Sequence[Tensor], Sequence[Tensor]]) -> Tensor:
    """Attend over lists of keys and values with einsum."""
    keys, values = (torch.stack([*each]) for each in listed)
    grouped = query.reshape(*query.shape[:2], keys.shape[3], -1, query.shape[-1])
    scores = torch.einsum("bshgd,tbshd->tbshg", grouped, keys) * query.shape[-1] ** -0.5
    weights = scores.softmax(0, dtype=torch.float32).to(values.dtype)
    return torch.einsum("tbshg,tbshd->bshgd", weights, values).reshape(query.shape)


def _compiled() -> Callable[..., Tensor]:
    # each number of slots is another shape
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    return torch.compile(reference.attend_stacked, dynamic=False)


def _stacked(listed: tuple[list[Tensor], list[Tensor]]) -> Any:
    return [torch.stack(each) for each in listed]


def _backends(setting: Setting) -> list[tuple[str, SDPBackend]]:
    if setting.device.type == "cuda":
        return [("cuDNN", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)]
    return [("math", SDPBackend.MATH)]


def _attention(drawn: Drawn, backend: SDPBackend) -> Run:
    """SDPA with a batch entry per token and its slots as the sequence; forward only, as SDPA pads rows."""
    query = drawn.query[0].unsqueeze(2)
    keys, values = (each[:, 0].permute(1, 2, 0, 3) for each in drawn.tensors[1:])
    grouped = drawn.size.heads != drawn.size.kv_heads

    def run() -> Any:
        with sdpa_kernel(backend), torch.no_grad():
            return F.scaled_dot_product_attention(query, keys, values, enable_gqa=grouped)

    return run


def _backward(size: Size, steps: int, setting: Setting, fits: Fitting | None, way: Way | None) -> Run:
    """Run a loop forward and return its backward pass, which can be repeated."""
    drawn = Drawn(size, steps, setting)
    keys, values = ([each.clone().requires_grad_() for each in listed] for listed in drawn.listed)
    queries = [torch.randn_like(drawn.query).requires_grad_() for _ in range(steps)]
    gradients = [torch.randn_like(drawn.query) for _ in range(steps)]
    if fits is None:
        outs = [stacked_einsum(query, (keys[: n + 1], values[: n + 1])) for n, query in enumerate(queries)]
    else:
        outs = _outs(queries, keys, values, fits)

    def run() -> Any:
        with forced(way):
            return torch.autograd.grad(outs, [*queries, *keys, *values], gradients, retain_graph=True)

    return run


@contextmanager
def forced(way: Way | None) -> Iterator[None]:
    """Force one way of computing gradients of slots, whatever the sizes."""
    if way is None:
        yield
        return
    fused: Any = import_module("blocks.depth_attention.fused")
    chooses = fused.backward_method
    fused.backward_method = lambda *sizes: way
    try:
        yield
    finally:
        fused.backward_method = chooses


def looped(drawn: Drawn, fits: Fitting) -> Callable[[], list[Tensor]]:
    """Return a function that runs a loop forward and backward and returns outputs, then gradients."""
    leaves = [
        each.detach().clone().requires_grad_() for each in (drawn.query, *drawn.listed[0], *drawn.listed[1])
    ]
    query, keys, values = leaves[0], leaves[1 : 1 + drawn.reads], leaves[1 + drawn.reads :]

    def run() -> list[Tensor]:
        outs = _outs([query] * drawn.reads, keys, values, fits)
        made = torch.autograd.grad(outs, leaves, [drawn.gradient] * len(outs))
        return [*(out.detach() for out in outs), *made]

    return run


def _outs(queries: list[Tensor], keys: list[Tensor], values: list[Tensor], fits: Fitting) -> list[Tensor]:
    """Return the output of each step of a loop that appends and reads."""
    outs = []
    memory, token = slots(keys[0][..., 0, 0], len(keys), *keys[0].shape[2:])
    for n, query in enumerate(queries):
        token = fits.append(keys[n], values[n], token, memory, n)
        outs.append(fits.attend(query, token, memory, reads=n + 1))
    return outs


def _named(size: Size, count: int, letter: str = "t") -> str:
    return f"{size.tokens} tokens, H {size.heads}, Hk {size.kv_heads}, d {size.head_dim}, {letter} {count}"


def _share(row: Row, wanted: float) -> list[Goal]:
    return [Goal(f"at least {wanted:.0%} of the floor", wanted, row.share or 0.0)]


def _times(row: Row, wanted: float) -> list[Goal]:
    got = row.seconds / row.floor if row.seconds and row.floor else float("inf")
    return [Goal(f"at most {wanted}x its floor", wanted, got, least=False)]
