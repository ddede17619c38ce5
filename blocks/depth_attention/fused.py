"""Depth attention with Triton kernels: the functions of `reference.py`, with the same gradients.

There are two methods for the gradients of slots (see `backward_method.py`). With push, each read adds to
them, as in the reference. With pull, each read of the running backward pass records its tensors; the append
of a slot, which autograd reaches after all reads of that pass, computes the gradients from all records in one
kernel. Records belong to one backward pass, so partial, repeated and interleaved passes are correct. A read
pushes if some append that it saw would not pull; both results are added. If a forward pass has only one read,
that read writes the gradients of its slots directly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.depth_attention import append_kernel, kernel, pull_kernel, reference
from blocks.depth_attention.backward_method import backward_method
from blocks.depth_attention.kernel import Bias, Push, Row
from blocks.depth_attention.reference import slots_read
from blocks.kernels.backward_passes import drop_at_end, running
from blocks.kernels.joined_gradients import GradientSlice, gradient_slice
from blocks.kernels.rotations import step_rotation
from blocks.kernels.slot_memory import SlotMemory
from blocks.kernels.tensors import fits, in_heads
from blocks.kernels.weight_sums import WeightSum, sum_of
from blocks.primitives.fused import put_shares, shares_of
from blocks.primitives.rotary_kernel import rotate_back


def append(key: Tensor, value: Tensor, token: Tensor, memory: SlotMemory, slot: int) -> Tensor:
    """Write key and value [batch, sequence, kv_heads, head_dim] into a slot; return the next token.

    On a CPU, to which a model planned for a GPU may be moved, the reference runs.
    """
    if not fits(key):
        return reference.append(key, value, token, memory, slot)
    result: Tensor = _Append.apply(key, value, token, memory, slot, None)  # type: ignore[no-untyped-call]
    return result


def append_rotated(
    key: Tensor, value: Tensor, token: Tensor, memory: SlotMemory, angle: Tensor, slot: int, index: int
) -> Tensor:
    """Do the same and rotate the key by `index` times the angle [head_dim / 2]."""
    if not fits(key):
        return reference.append_rotated(key, value, token, memory, angle, slot, index)
    by = step_rotation(angle, index)
    result: Tensor = _Append.apply(key, value, token, memory, slot, by)  # type: ignore[no-untyped-call]
    return result


def attend(
    query: Tensor,
    token: Tensor,
    memory: SlotMemory,
    bias: Tensor | None = None,
    *,
    reads: int,
    window: int | None = None,
    stride: int = 1,
) -> Tensor:
    """Attend each token's query [batch, sequence, heads, head_dim] over its first `reads` slots.

    Of these every `stride`-th of the last `window` is read, from the last on. `bias` [heads] times the slot's
    distance from the latest slot is subtracted from its scores. With `reads` = 0 the output is exactly 0. On
    a CPU the reference runs.
    """
    memory.reads += 1
    if not (fits(query) and fits(memory.keys)):
        return reference.attend(query, token, memory, bias, reads=reads, window=window, stride=stride)
    return _attended(query, token, memory, slots_read(reads, window, stride), None, bias)


def attend_rotated(
    query: Tensor,
    token: Tensor,
    memory: SlotMemory,
    angle: Tensor,
    bias: Tensor | None = None,
    *,
    reads: int,
    index: int,
    window: int | None = None,
    stride: int = 1,
) -> Tensor:
    """Do the same with a query that is rotated by `index` times the angle [head_dim / 2]."""
    memory.reads += 1
    if not (fits(query) and fits(memory.keys)):
        given = {"reads": reads, "index": index, "window": window, "stride": stride}
        return reference.attend_rotated(query, token, memory, angle, bias, **given)  # type: ignore[arg-type]
    part = slots_read(reads, window, stride)
    return _attended(query, token, memory, part, step_rotation(angle, index), bias)


def _attended(
    query: Tensor, token: Tensor, memory: SlotMemory, part: slice, turn: Tensor | None, bias: Tensor | None
) -> Tensor:
    total = None if bias is None else sum_of(bias)
    result: Tensor = _Attend.apply(query, token, memory, part, turn, bias, total)  # type: ignore[no-untyped-call]
    return result


class _Append(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        key: Tensor,
        value: Tensor,
        token: Tensor,
        memory: SlotMemory,
        slot: int,
        turn: Tensor | None,
    ) -> Tensor:
        append_kernel.append(key, value, *memory.slot(slot, key.dtype), turn)
        memory.wanted[slot] = any(ctx.needs_input_grad[:2])
        ctx.memory, ctx.slot, ctx.turn, ctx.dtypes = memory, slot, turn, (key.dtype, value.dtype)
        ctx.places = gradient_slice(key), gradient_slice(value)
        ctx.made = running()
        ctx.set_materialize_grads(False)
        # not a view, about which FSDP warns
        return torch.empty_like(token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        if not any(ctx.needs_input_grad[:2]):
            return (None,) * 6
        key, value = _fetched(ctx.memory, ctx.slot, ctx.turn, ctx.places)
        return key.to(ctx.dtypes[0]), value.to(ctx.dtypes[1]), None, None, None, None


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        token: Tensor,
        memory: SlotMemory,
        part: slice,
        turn: Tensor | None,
        bias: Tensor | None,
        total: WeightSum | None,
    ) -> Tensor:
        ctx.memory, ctx.part, ctx.turn, ctx.place = memory, part, turn, gradient_slice(query)
        ctx.made, ctx.total = running(), total
        if not part.stop:
            ctx.save_for_backward(query, bias)
            return torch.zeros_like(query)
        keys, values, reads = memory.keys[part], memory.values[part], len(_slots(part))
        out, log_sum = kernel.attend_forward(query, keys, values, reads, turn, _bias(bias, part, {}))
        ctx.save_for_backward(query, bias, out, log_sum)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        query, slopes, *kept = ctx.saved_tensors
        total: WeightSum | None = ctx.total
        if not ctx.part.stop:
            to_slopes = None if slopes is None or total else torch.zeros_like(slopes)
            return torch.zeros_like(query), None, None, None, None, to_slopes, None
        shares = shares_of(total)
        bias = _bias(slopes, ctx.part, shares)
        to_query = _gradient(ctx.memory, ctx.part, ctx.turn, bias, ctx.place, query, gradient, *kept)
        to_slopes = put_shares(total, shares, slopes.dtype) if ctx.needs_input_grad[5] else None
        return to_query, None, None, None, None, to_slopes, None


def _bias(slopes: Tensor | None, part: slice, shares: dict[int, Tensor]) -> Bias | None:
    return None if slopes is None else Bias(slopes, part.step or 1, shares)


class _Read(NamedTuple):
    """A read of the current backward pass: the tensors that its row of the table points to."""

    table: Tensor
    query: Tensor
    gradient: Tensor
    log_sum: Tensor
    delta: Tensor
    turn: Tensor | None
    bias: Tensor | None


def _gradient(
    memory: SlotMemory,
    part: slice,
    turn: Tensor | None,
    bias: Bias | None,
    at: GradientSlice | None,
    query: Tensor,
    gradient: Tensor,
    out: Tensor,
    log_sum: Tensor,
) -> Tensor:
    """Return the gradient of the query, in its `GradientSlice` if any; push or record those of the slots."""
    slots = _slots(part)
    reads, all_before = len(slots), len(slots) == part.stop
    given = {"out": out, "log_sum": log_sum, "turn": turn, "made": at.take(query.dtype) if at else None}
    given |= {"keys": memory.keys[part], "values": memory.values[part]}
    run: Callable[..., tuple[Tensor, Tensor]] = partial(kernel.attend_backward, bias=bias, **given)  # type: ignore[arg-type]
    wanting = [number for number, slot in enumerate(slots) if memory.wanted.get(slot, True)]
    if not wanting:
        return run(query, gradient=gradient, reads=reads)[0]
    if not all_before:
        key_gradients, value_gradients = memory.gradients()
        push = Push(key_gradients[part], value_gradients[part], wanting[0])
        return run(query, gradient=gradient, reads=reads, push=push)[0]
    if memory.reads == 1:
        push = Push(*memory.only(reads), wanting[0], only=True)
        return run(query, gradient=gradient, reads=reads, push=push)[0]
    if not _pulls(memory, reads, query, gradient):
        push = Push(*memory.gradients(), wanting[0])
        return run(query, gradient=gradient, reads=reads, push=push)[0]
    left = memory.left()
    if not left:
        # a pass may end without reaching the append that releases the records
        drop_at_end(memory)
    table = left[0].table if left else _table(memory)
    query, gradient = kernel.placed(query), kernel.readable(gradient)
    made, delta = run(query, gradient=gradient, reads=reads, row=Row(table, len(left)))
    left.append(_Read(table, query, gradient, log_sum, delta, turn, bias and bias.slopes))
    return made


def _slots(part: slice) -> range:
    """Return the indices of the slots in a slice."""
    return range(part.start or 0, part.stop, part.step or 1)


def _pulls(memory: SlotMemory, reads: int, query: Tensor, gradient: Tensor) -> bool:
    """Return whether a read may use pull: all appends that it saw will pull, and it moves fewer bytes."""
    slots, kv_heads, head_dim = len(memory.keys), *memory.keys.shape[3:]
    return (
        all(slot in memory.wanted for slot in range(reads))
        and len(memory.left()) < slots
        and query.dtype == gradient.dtype == memory.keys.dtype
        and backward_method(query.shape[2], kv_heads, head_dim, slots, query.element_size()) == "pull"
    )


def _fetched(
    memory: SlotMemory,
    slot: int,
    turn: Tensor | None,
    places: tuple[GradientSlice | None, GradientSlice | None],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a slot's key, before rotation, and value, from all reads of this pass.

    They are written to their `GradientSlice`s if there are any.
    """
    left = memory.left()
    if not left:
        key, value = memory.gradient(slot)
        return _back(key, turn), value
    pushed = memory.gradient(slot) if memory.pushed() else None
    dtype = pushed[0].dtype if pushed else memory.keys.dtype
    heads = left[0].query.shape[2]
    # the uses of a block either all rotate or none does, and either all have a bias or none has
    assert len({(each.turn is None, each.bias is None) for each in left}) == 1
    apart = min(_apart(each.query) for each in left)
    queries = pull_kernel.Queries(left[0].turn is not None, apart, left[0].bias)
    given = memory.keys[slot], memory.values[slot], left[0].table, len(left), slot, heads, dtype
    key, value = pull_kernel.pull(*given, turn, queries, _taken(places, dtype))
    if slot == min(each for each, wants in memory.wanted.items() if wants):
        # autograd runs the appends of all other slots before this one
        memory.drop()
    return (key + _back(pushed[0], turn), value + pushed[1]) if pushed else (key, value)


def _taken(
    places: tuple[GradientSlice | None, GradientSlice | None], dtype: torch.dtype
) -> tuple[Tensor, Tensor] | None:
    """Return where to write the gradients of a key and a value, or None unless both have a place."""
    taken = [place.take(dtype) for place in places if place]
    present = [each for each in taken if each is not None]
    return (present[0], present[1]) if len(present) == 2 else None


def _back(key: Tensor, turn: Tensor | None) -> Tensor:
    """Return the gradient of a key from the gradient of the rotated key."""
    return key if turn is None else rotate_back(key, turn)


def _apart(query: Tensor) -> int:
    """Return the largest power of two, at most 8, that divides the stride between tokens."""
    return math.gcd(8, in_heads(query).stride(0))


def _table(memory: SlotMemory) -> Tensor:
    return torch.empty((len(memory.keys), kernel.COLUMNS), dtype=torch.int64, device=memory.keys.device)
