"""Residual mixes as plain PyTorch with gradients by autograd: slots are a list of values.

Values are [batch, sequence, width]. Exported models run these: they are short, and torch.compile traces them.
Values are read one by one, so that in fp32 the backward pass keeps no copies of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blocks.primitives.reference import EPS, product_dtype, wide
from blocks.wiring.residual.mix.reference import split_heads


def values(tokens: Tensor, count: int, width: int) -> tuple[list[Tensor], Tensor]:
    """Return slots without any value, and the order token, which passes through all that reads or writes."""
    return [], torch.zeros((), device=tokens.device)


def write(value: Tensor, token: Tensor, memory: list[Tensor], slot: int) -> Tensor:
    """Append a value, as number `slot`; return the order token."""
    assert len(memory) == slot, f"slot {slot} is written after {len(memory)} others"
    memory.append(value.to(product_dtype(value)))
    return token


def attend(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the sum of values weighted by a softmax over query . RMSNorm(value).

    The values are the start, the first `reads` slots and the partial. `given` are the start, the partial if
    there is one, the order token, the slots and the query [width].
    """
    *own, _, memory, query = given
    read = _read(own, memory, reads)
    scores = torch.stack([_score(value, query, heads) for value in read])
    return _sum(read, scores.softmax(0)).to(own[0].dtype)


def weigh(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the same with weights [most, heads] by distance, from the latest value back."""
    *own, _, memory, weights = given
    read = _read(own, memory, reads)
    return _sum(read, wide(weights[: len(read)]).flip(0)[:, None, None]).to(own[0].dtype)


def rectify(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the sum of values weighted by b + ReLU(w . RMSNorm(value)).

    `given` ends with b [most, width] by distance, from the latest value back, and w [width]. The gradient of
    ReLU at 0 is 1 here: w is initialized to 0 and would stay there otherwise.
    """
    *own, _, memory, static, query = given
    latest_first = _read(own, memory, reads)[::-1]
    scores = [_score(value, query, heads) for value in latest_first]
    weights = torch.stack([torch.where(score >= 0, score, 0) for score in scores])
    fixed = torch.zeros((), dtype=weights.dtype, device=weights.device)
    for value, share in zip(latest_first, static, strict=False):
        fixed = fixed + wide(value) * wide(share)
    return (fixed + _sum(latest_first, weights)).to(own[0].dtype)


def norm_latest(value: Tensor, token: Tensor, memory: list[Tensor], reads: int) -> Tensor:
    """Return v / rms(v) of slot `reads` - 1, or of `value` if `reads` is 0."""
    latest = wide(memory[reads - 1] if reads else value)
    return (latest * _scale(latest)).to(value.dtype)


def weigh_by_token(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the sum of values with weights per token.

    `given` are the start, the partial if there is one, weights [batch, sequence, most, heads] by distance,
    from the latest value back, the order token, the slots and weights [most, heads] that are added to these.
    """
    *own, dynamic, _, memory, static = given
    latest_first = _read(own, memory, reads)[::-1]
    count = len(latest_first)
    shares = (wide(dynamic[:, :, :count]) + wide(static[:count])).movedim(2, 0)
    return _sum(latest_first, shares).to(own[0].dtype)


def _read(own: Sequence[Tensor], memory: list[Tensor], reads: int) -> list[Tensor]:
    """Return the values in order: the start, the slots, the partial."""
    return [own[0], *memory[:reads], *own[1:]]


def _scale(value: Tensor) -> Tensor:
    return torch.rsqrt(value.square().mean(-1, keepdim=True) + EPS)


def _score(value: Tensor, query: Tensor, heads: int) -> Tensor:
    """Return query . RMSNorm(value) of each head [batch, sequence, heads]."""
    full = wide(value)
    score: Tensor = split_heads(full * wide(query), heads).sum(-1) * _scale(full)
    return score


def _sum(read: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the sum, in fp32, with weights that broadcast to [values, batch, sequence, heads]."""
    heads = weights.shape[-1]
    total = torch.zeros((), dtype=weights.dtype, device=weights.device)
    for value, weight in zip(read, weights, strict=True):
        total = total + split_heads(wide(value), heads) * weight.unsqueeze(-1)
    return total.flatten(-2)
