"""Plain PyTorch for depth attention: append to the slots, attend over the slots so far.

The slots are written in place, so both are custom autograd functions: a read adds the gradients of keys and
values to the gradients of the slots, and the append of a slot returns them. A scalar order token passes from
append to read to the next append, so that autograd runs an append after all reads of its slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.backward_passes import running
from blocks.kernels.slot_memory import SlotMemory
from blocks.kernels.slot_memory import append as append
from blocks.primitives.reference import rotate_step, wide


def append_rotated(
    key: Tensor, value: Tensor, token: Tensor, memory: SlotMemory, angle: Tensor, slot: int, index: int
) -> Tensor:
    """Append a key that is first rotated by `index` times the angle [head_dim / 2]."""
    return append(rotate_step(key, angle, index), value, token, memory, slot)


def attend(
    query: Tensor,
    token: Tensor,
    memory: SlotMemory,
    bias: Tensor | None = None,
    *,
    reads: int,
    window: int | None = None,
    stride: int = 1,
    functions: AttendFunctions | None = None,
) -> Tensor:
    """Attend each token's query [batch, sequence, heads, head_dim] over its first `reads` slots.

    Of these every `stride`-th of the last `window` is read, counted from the last. `bias` [heads] times the
    slot's distance from the latest slot is subtracted from its scores. With `reads` = 0 the output is exactly
    0.
    """
    return _attended(query, token, bias, memory, slots_read(reads, window, stride), functions or EAGER)


def slots_read(reads: int, window: int | None, stride: int) -> slice:
    """Return the slice of slots that `attend` reads."""
    first = 0 if window is None else max(0, reads - window)
    return slice(first + (reads - 1 - first) % stride if reads else 0, reads, stride)


def attend_rotated(
    query: Tensor,
    token: Tensor,
    memory: SlotMemory,
    angle: Tensor,
    bias: Tensor | None = None,
    *,
    index: int,
    **read: Any,
) -> Tensor:
    """Attend with a query that is first rotated by `index` times the angle [head_dim / 2]."""
    return attend(rotate_step(query, angle, index), token, memory, bias, **read)


def attend_stacked(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `attend` by autograd, from keys and values [slots, batch, sequence, kv_heads, head_dim]."""
    group = query.shape[2] // keys.shape[3]
    far = None if bias is None else distances(bias, slice(len(keys)), group)
    return attended(query, keys, values, far)[0]


def _grouped(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries [.., kv_heads, group, head_dim] and slots [.., kv_heads, 1, head_dim], in fp32."""
    batch, length, heads, head_dim = query.shape
    kv_heads = keys.shape[3]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    return wide(grouped), wide(keys.unsqueeze(4)), wide(values.unsqueeze(4))


def _weights(grouped: Tensor, keys: Tensor, far: Tensor | None) -> Tensor:
    scores: Tensor = (grouped * keys).sum(-1) * grouped.shape[-1] ** -0.5  # [slots, B, S, kv_heads, group]
    return (scores if far is None else scores.sub_(far)).softmax(0)


class AttendFunctions(NamedTuple):
    """The two functions that `attend` runs: `attended` and `attended_backward`, or compiled versions."""

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., Tensor]


def attended(query: Tensor, keys: Tensor, values: Tensor, far: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the attention output over the given slots, and the weights [slots, B, S, kv_heads, group].

    `far`, which broadcasts to the weights, is subtracted from the scores.
    """
    grouped, keys, values = _grouped(query, keys, values)
    weights = _weights(grouped, keys, far)
    return (weights.unsqueeze(-1) * values).sum(0).reshape(query.shape).to(query.dtype), weights


def attended_backward(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: Tensor,
    gradient: Tensor,
    key_gradients: Tensor,
    value_gradients: Tensor,
    far_gradients: Tensor | None = None,
) -> Tensor:
    """Return the gradient of the query; add those of keys, values and `far` in place."""
    grouped, keys, values = _grouped(query, keys, values)
    gradient = gradient.reshape(grouped.shape).to(grouped.dtype)
    value_gradients += (weights.unsqueeze(-1) * gradient).sum(4)
    by_weight = (gradient * values).sum(-1)
    by_score = weights * (by_weight - (weights * by_weight).sum(0))
    if far_gradients is not None:
        far_gradients -= by_score.sum((1, 2), keepdim=True)
    by_score = by_score * query.shape[-1] ** -0.5
    key_gradients += (by_score.unsqueeze(-1) * grouped).sum(4)
    by_query: Tensor = (by_score.unsqueeze(-1) * keys).sum(0)
    return by_query.reshape(query.shape).to(query.dtype)


EAGER = AttendFunctions(attended, attended_backward)


def _attended(
    query: Tensor,
    token: Tensor,
    bias: Tensor | None,
    memory: SlotMemory,
    part: slice,
    functions: AttendFunctions,
) -> Tensor:
    if not torch.is_grad_enabled():
        return _over_slots(query, bias, memory, part, functions)[0]
    result: Tensor = _Attend.apply(query, token, bias, memory, part, functions)  # type: ignore[no-untyped-call]
    return result


def _over_slots(
    query: Tensor, bias: Tensor | None, memory: SlotMemory, part: slice, functions: AttendFunctions
) -> tuple[Tensor, Tensor | None]:
    """Return the attention output over a slice of slots, and the weights if there are slots."""
    if not part.stop:
        return torch.zeros_like(query), None
    far = [] if bias is None else [distances(bias, part, query.shape[2] // memory.keys.shape[3])]
    return functions.forward(query, memory.keys[part], memory.values[part], *far)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        token: Tensor,
        bias: Tensor | None,
        memory: SlotMemory,
        part: slice,
        functions: AttendFunctions,
    ) -> Tensor:
        ctx.memory, ctx.part, ctx.functions = memory, part, functions
        ctx.made = running()
        y, weights = _over_slots(query, bias, memory, part, functions)
        ctx.save_for_backward(query, bias, *([] if weights is None else [weights]))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        query, bias, *kept = ctx.saved_tensors
        memory, part = ctx.memory, ctx.part
        by_bias = None if bias is None else torch.zeros_like(bias)
        if not part.stop:
            return torch.zeros_like(query), None, by_bias, None, None, None
        far = (
            []
            if bias is None
            else [torch.zeros_like(distances(bias, part, query.shape[2] // memory.keys.shape[3]))]
        )
        slots = (each[part] for each in (memory.keys, memory.values))
        gradients = (each[part] for each in memory.gradients())
        by_query = ctx.functions.backward(query, *slots, *kept, gradient, *gradients, *far)
        if by_bias is not None:
            by_bias += _behind(part, far[0]) @ far[0].flatten(1)
        return by_query, None, by_bias, None, None, None


def _behind(part: slice, like: Tensor) -> Tensor:
    """Return the distance of each slot of a slice from the latest slot: [slots]."""
    count = len(range(part.start or 0, part.stop, part.step or 1))
    return torch.arange(count - 1, -1, -1, device=like.device, dtype=like.dtype) * (part.step or 1)


def distances(bias: Tensor, part: slice, group: int) -> Tensor:
    """Return the subtrahend of the scores for a bias [heads]: [slots, 1, 1, kv_heads, group]."""
    bias = wide(bias)
    return (_behind(part, bias)[:, None] * bias).view(-1, 1, 1, len(bias) // group, group)
