"""Depth attention as one writes it by hand: over a list that is stacked, or over slots that are kept.

Each way takes the query [B, S, heads, head_dim], key and value [B, S, kv_heads, head_dim] of a step and the
past, to which it adds these, and returns the output, shaped like the query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Way = Literal["einsum", "elementwise", "slots"]


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
    y: Tensor = (scores.softmax(0).to(values.dtype).unsqueeze(-1) * values).sum(0)
    return y.reshape(query.shape)


def by_slots(query: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
    """Write key and value where they stay, read them there; gradients of slots are summed in place.

    A step's output is in the state that makes all later keys, so the backward pass comes to a step after all
    that read its slot.
    """
    made: Tensor = _Slots.apply(query, key, value, past)  # type: ignore[no-untyped-call]
    return made


class _Slots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, past: Past) -> Tensor:
        if past.slots is None:
            past.slots = key.new_empty((past.steps, *key.shape)), value.new_empty((past.steps, *value.shape))
        keys, values = past.slots
        keys[past.taken], values[past.taken] = key, value
        past.taken += 1
        ctx.past, ctx.reads = past, past.taken
        keys, values = keys[: ctx.reads].unsqueeze(4), values[: ctx.reads].unsqueeze(4)
        scores = (_grouped(query, key) * keys).sum(-1, dtype=torch.float32) * query.shape[-1] ** -0.5
        weights = scores.softmax(0)
        ctx.save_for_backward(query, weights)
        made: Tensor = (weights.to(values.dtype).unsqueeze(-1) * values).sum(0).reshape(query.shape)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, weights = ctx.saved_tensors
        reads, past = ctx.reads, ctx.past
        if past.sums is None:
            past.sums = tuple(torch.zeros_like(each, dtype=torch.float32) for each in past.slots)
        (keys, values), (to_keys, to_values) = past.slots, past.sums
        keys, values = keys[:reads].unsqueeze(4), values[:reads].unsqueeze(4)
        grouped, gradient = _grouped(query, keys[0, ..., 0, :]), _grouped(gradient, keys[0, ..., 0, :])
        by_weight = (gradient * values).sum(-1, dtype=torch.float32)
        to_scores = weights * (by_weight - (weights * by_weight).sum(0)) * query.shape[-1] ** -0.5
        to_scores, shares = to_scores.to(keys.dtype).unsqueeze(-1), weights.to(keys.dtype).unsqueeze(-1)
        to_values[:reads] += (shares * gradient).sum(4)
        to_keys[:reads] += (to_scores * grouped).sum(4)
        to_query = (to_scores * keys).sum(0).reshape(query.shape)
        own = reads - 1
        return to_query, to_keys[own].to(keys.dtype), to_values[own].to(keys.dtype), None


def _grouped(x: Tensor, key: Tensor) -> Tensor:
    """Return [B, S, kv_heads, group, head_dim]."""
    return x.reshape(*x.shape[:2], key.shape[2], -1, x.shape[-1])


WAYS: dict[Way, Callable[[Tensor, Tensor, Tensor, Past], Tensor]] = {
    "einsum": by_einsum,
    "elementwise": by_element,
    "slots": by_slots,
}
