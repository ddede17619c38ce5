"""Depth attention as one writes it by hand: over a list that is stacked, or over slots that are kept.

Each way takes the query [B, S, heads, head_dim], key and value [B, S, kv_heads, head_dim] of a step and the
past, to which it adds these, and returns the output, shaped like the query. Sums name their dtype: autocast
on a GPU, though not on a CPU, would make them fp32, and with them the output and all gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Way = Literal["einsum", "elementwise", "slots", "compiled slots"]


class Past:
    """Keys and values of the steps so far, as lists or as slots for all steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.slots: tuple[Tensor, Tensor] | None = None
        self.sums: tuple[Tensor, Tensor] | None = None
        self.taken = 0


def by_einsum(query: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
    """Stack all keys and values, attend in two einsums."""
    past.keys.append(key)
    past.values.append(value)
    keys, values = torch.stack(past.keys), torch.stack(past.values)
    scores = torch.einsum("bshgd,tbshd->tbshg", _grouped(query, key), keys) * query.shape[-1] ** -0.5
    weights = scores.softmax(0, dtype=torch.float32).to(values.dtype)
    return torch.einsum("tbshg,tbshd->bshgd", weights, values).reshape(query.shape)


def by_element(query: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
    """The same, elementwise: one loop once it is compiled."""
    past.keys.append(key)
    past.values.append(value)
    return elementwise(query, past.keys, past.values)


def elementwise(query: Tensor, listed_keys: list[Tensor], listed_values: list[Tensor]) -> Tensor:
    """Attend over lists of keys and values; compiled, one function for each number of steps."""
    keys, values = torch.stack(listed_keys).unsqueeze(4), torch.stack(listed_values).unsqueeze(4)
    grouped = _grouped(query, listed_keys[0])
    scores = (grouped * keys).sum(-1, dtype=torch.float32) * query.shape[-1] ** -0.5
    shares = scores.softmax(0).to(values.dtype).unsqueeze(-1)
    y: Tensor = (shares * values).sum(0, dtype=values.dtype)
    return y.reshape(query.shape)


class Arithmetic(NamedTuple):
    """What is computed over slots: `attended` and `attended_backward`, or what does the same."""

    forward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def attended(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a query reads from slots [slots, B, S, kv_heads, head_dim], and its weights in fp32.

    The weights are [slots, B, S, kv_heads, group].
    """
    keys, values = keys.unsqueeze(4), values.unsqueeze(4)
    scores = (_grouped(query, keys[0, ..., 0, :]) * keys).sum(-1, dtype=torch.float32)
    weights = (scores * query.shape[-1] ** -0.5).softmax(0)
    y: Tensor = (weights.to(values.dtype).unsqueeze(-1) * values).sum(0, dtype=values.dtype)
    return y.reshape(query.shape), weights


def attended_backward(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    weights: Tensor,
    gradient: Tensor,
    to_keys: Tensor,
    to_values: Tensor,
) -> Tensor:
    """Return the gradient of the query; add those of keys and values, in place, to sums in fp32."""
    keys, values = keys.unsqueeze(4), values.unsqueeze(4)
    grouped, gradient = _grouped(query, keys[0, ..., 0, :]), _grouped(gradient, keys[0, ..., 0, :])
    by_weight = (gradient * values).sum(-1, dtype=torch.float32)
    to_scores = weights * (by_weight - (weights * by_weight).sum(0)) * query.shape[-1] ** -0.5
    to_scores, shares = to_scores.to(keys.dtype).unsqueeze(-1), weights.to(keys.dtype).unsqueeze(-1)
    to_values += (shares * gradient).sum(4, dtype=values.dtype)
    to_keys += (to_scores * grouped).sum(4, dtype=keys.dtype)
    to_query: Tensor = (to_scores * keys).sum(0, dtype=query.dtype)
    return to_query.reshape(query.shape)


PLAIN = Arithmetic(attended, attended_backward)


@cache
def compiled_arithmetic() -> Arithmetic:
    """Return the same, compiled: once for one slot, once for any other number; all models share it."""
    # all but the slots is of a fixed size; callers name the axis that is not
    return Arithmetic(torch.compile(attended, dynamic=False), torch.compile(attended_backward, dynamic=False))


def by_slots(query: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
    """Write key and value where they stay, read them there; gradients of slots are summed in place.

    A step's output is in the state that makes all later keys, so the backward pass comes to a step after all
    that read its slot.
    """
    made: Tensor = _Slots.apply(query, key, value, past, PLAIN)  # type: ignore[no-untyped-call]
    return made


def by_compiled_slots(query: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
    """The same, its arithmetic compiled; slots are neither copied to a stack nor added one by one."""
    made: Tensor = _Slots.apply(query, key, value, past, compiled_arithmetic())  # type: ignore[no-untyped-call]
    return made


class _Slots(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, past: Past, arithmetic: Arithmetic
    ) -> Tensor:
        if past.slots is None:
            past.slots = key.new_empty((past.steps, *key.shape)), value.new_empty((past.steps, *value.shape))
        keys, values = past.slots
        keys[past.taken], values[past.taken] = key, value
        past.taken += 1
        ctx.past, ctx.reads, ctx.arithmetic = past, past.taken, arithmetic
        y, weights = arithmetic.forward(query, *_first(ctx.reads, keys, values))
        ctx.save_for_backward(query, weights)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, weights = ctx.saved_tensors
        reads, past = ctx.reads, ctx.past
        if past.sums is None:
            past.sums = tuple(torch.zeros_like(each, dtype=torch.float32) for each in past.slots)
        (keys, values), (to_keys, to_values) = past.slots, past.sums
        slots, sums = _first(reads, keys, values), _first(reads, to_keys, to_values)
        to_query = ctx.arithmetic.backward(query, *slots, *_first(reads, weights), gradient, *sums)
        own = reads - 1
        return to_query, to_keys[own].to(keys.dtype), to_values[own].to(keys.dtype), None, None


def _first(reads: int, *held: Tensor) -> list[Tensor]:
    """Return the first slots of each; what compiles for two of them has to serve any more."""
    parts = [each[:reads] for each in held]
    if reads > 1:
        for part in parts:
            torch._dynamo.mark_dynamic(part, 0)
    return parts


def _grouped(x: Tensor, key: Tensor) -> Tensor:
    """Return [B, S, kv_heads, group, head_dim]."""
    return x.reshape(*x.shape[:2], key.shape[2], -1, x.shape[-1])


WAYS: dict[Way, Callable[[Tensor, Tensor, Tensor, Past], Tensor]] = {
    "einsum": by_einsum,
    "elementwise": by_element,
    "slots": by_slots,
    "compiled slots": by_compiled_slots,
}
