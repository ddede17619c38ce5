"""Plain PyTorch for depth attention: an append into a slot and an attention over the slots so far.

The slots are written in place, so both are autograd functions of their own: a read adds the gradients of the
keys and values it saw to the slots' gradients, and the append of a slot hands them on. The scalar token that
goes from append to read and to the next append makes autograd reach an append after all reads of its slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.slot_memory import SlotMemory
from blocks.primitives.reference import rotate_step, wide


def append(key: Tensor, value: Tensor, token: Tensor, memory: SlotMemory, slot: int) -> Tensor:
    """Write key and value [batch, sequence, kv_heads, head_dim] into a slot; return the next token."""
    result: Tensor = _Append.apply(key, value, token, memory, slot)  # type: ignore[no-untyped-call]
    return result


def append_turned(
    key: Tensor, value: Tensor, token: Tensor, memory: SlotMemory, angle: Tensor, slot: int, index: int
) -> Tensor:
    """Append a key that is rotated before, by `index` times the angle [head_dim / 2]."""
    return append(rotate_step(key, angle, index), value, token, memory, slot)


def attend(query: Tensor, token: Tensor, memory: SlotMemory, reads: int, ways: Ways | None = None) -> Tensor:
    """Attend each token's query [batch, sequence, heads, head_dim] over its first `reads` slots.

    With no slot to read the output is exactly 0.
    """
    result: Tensor = _Attend.apply(query, token, memory, reads, ways or PLAIN)  # type: ignore[no-untyped-call]
    return result


def attend_turned(
    query: Tensor, token: Tensor, memory: SlotMemory, angle: Tensor, reads: int, index: int
) -> Tensor:
    """Attend with a query that is rotated before, by `index` times the angle [head_dim / 2]."""
    return attend(rotate_step(query, angle, index), token, memory, reads)


def attend_stacked(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return the same in autograd, from keys and values [slots, batch, sequence, kv_heads, head_dim]."""
    grouped, keys, values = _grouped(query, keys, values)
    weights = _weights(grouped, keys)
    y: Tensor = (weights.unsqueeze(-1) * values).sum(0).reshape(query.shape)
    return y.to(query.dtype)


def _grouped(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the query [.., kv_heads, group, head_dim] and the slots [.., kv_heads, 1, head_dim], in fp32."""
    batch, length, heads, head_dim = query.shape
    kv_heads = keys.shape[3]
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, head_dim)
    return wide(grouped), wide(keys.unsqueeze(4)), wide(values.unsqueeze(4))


def _weights(grouped: Tensor, keys: Tensor) -> Tensor:
    scores: Tensor = (grouped * keys).sum(-1) * grouped.shape[-1] ** -0.5  # [slots, B, S, kv_heads, group]
    return scores.softmax(0)


class _Append(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, token: Tensor, memory: SlotMemory, slot: int) -> Tensor:
        memory.write(slot, key, value)
        ctx.memory, ctx.slot, ctx.dtypes = memory, slot, (key.dtype, value.dtype)
        ctx.made = memory.running()
        return token.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, token_gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        key, value = ctx.memory.gradient(ctx.slot)
        return key.to(ctx.dtypes[0]), value.to(ctx.dtypes[1]), token_gradient, None, None


class Ways(NamedTuple):
    """The two functions that `attend` runs: `attended` and `attended_backward`, or what does the same."""

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., Tensor]


def attended(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what queries read from the given slots, and the weights [slots, B, S, kv_heads, group]."""
    grouped, keys, values = _grouped(query, keys, values)
    weights = _weights(grouped, keys)
    return (weights.unsqueeze(-1) * values).sum(0).reshape(query.shape).to(query.dtype), weights


def attended_backward(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: Tensor,
    gradient: Tensor,
    key_gradients: Tensor,
    value_gradients: Tensor,
) -> Tensor:
    """Return the gradient of the query, and add those of keys and values to what is there, in place."""
    grouped, keys, values = _grouped(query, keys, values)
    gradient = gradient.reshape(grouped.shape).to(grouped.dtype)
    value_gradients += (weights.unsqueeze(-1) * gradient).sum(4)
    by_weight = (gradient * values).sum(-1)
    by_score = weights * (by_weight - (weights * by_weight).sum(0)) * query.shape[-1] ** -0.5
    key_gradients += (by_score.unsqueeze(-1) * grouped).sum(4)
    by_query: Tensor = (by_score.unsqueeze(-1) * keys).sum(0)
    return by_query.reshape(query.shape).to(query.dtype)


PLAIN = Ways(attended, attended_backward)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, token: Tensor, memory: SlotMemory, reads: int, ways: Ways) -> Tensor:
        ctx.memory, ctx.reads, ctx.ways = memory, reads, ways
        ctx.made = memory.running()
        if not reads:
            ctx.save_for_backward(query, token)
            return torch.zeros_like(query)
        y, weights = ways.forward(query, memory.keys[:reads], memory.values[:reads])
        ctx.save_for_backward(query, token, weights)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        query, token, *kept = ctx.saved_tensors
        nothing = torch.zeros_like(token), None, None, None
        if not ctx.reads:
            return torch.zeros_like(query), *nothing
        memory, reads = ctx.memory, ctx.reads
        slots = (each[:reads] for each in (memory.keys, memory.values))
        gradients = (each[:reads] for each in memory.gradients())
        return ctx.ways.backward(query, *slots, *kept, gradient, *gradients), *nothing
