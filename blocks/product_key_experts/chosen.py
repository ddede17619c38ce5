"""Chooses experts by product keys; the scores are not saved for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.primitives.reference import wide


def choose(query: Tensor, first: Tensor, second: Tensor, active: int) -> tuple[Tensor, Tensor]:
    """Return softmax weights and indices of the best experts, best first: [B, S, heads, active] each.

    query: [B, S, heads, key_dim]; first, second: [keys, key_dim / 2]. Scores are at least in fp32.
    """
    made: tuple[Tensor, Tensor] = _Choose.apply(query, first, second, active)  # type: ignore[no-untyped-call]
    return made


def chosen(query: Tensor, first: Tensor, second: Tensor, active: int) -> tuple[Tensor, Tensor]:
    """Do what `choose` does, with gradients by autograd."""
    with torch.autocast(query.device.type, enabled=False):
        halves = _halves(query)
        scores = [torch.mm(half, wide(keys).T) for half, keys in zip(halves, (first, second), strict=True)]
        best = [each.topk(active) for each in scores]
        pairs = best[0].values.unsqueeze(2) + best[1].values.unsqueeze(1)
        highest, places = pairs.flatten(1).topk(active)
        left = best[0].indices.gather(1, places // active)
        right = best[1].indices.gather(1, places % active)
        indices = left.mul_(len(first)).add_(right).view(*query.shape[:3], active)
        return highest.softmax(-1).view(indices.shape), indices


class _Choose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, first: Tensor, second: Tensor, active: int) -> tuple[Tensor, Tensor]:
        weights, indices = chosen(query, first, second, active)
        ctx.save_for_backward(query, first, second, weights, indices)
        ctx.mark_non_differentiable(indices)
        return weights, indices

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        query, first, second, weights, indices = ctx.saved_tensors
        with torch.autocast(query.device.type, enabled=False):
            along = (gradient * weights).sum(-1, keepdim=True)
            of_scores = ((gradient - along) * weights).flatten(0, 2)
            best, keys = indices.flatten(0, 2), len(first)
            of_query, of_keys = [], []
            for half, each, place in zip(
                _halves(query), (first, second), (best // keys, best % keys), strict=True
            ):
                of_all = torch.zeros(len(half), keys, dtype=half.dtype, device=half.device)
                of_all.scatter_add_(1, place, of_scores)
                of_query.append(torch.mm(of_all, wide(each)))
                of_keys.append(torch.mm(of_all.T, half).to(each.dtype))
                del of_all
            whole = torch.cat(of_query, 1).view(query.shape).to(query.dtype)
        return whole, *of_keys, None


def _halves(query: Tensor) -> tuple[Tensor, Tensor]:
    left, right = wide(query).flatten(0, 2).chunk(2, -1)
    return left, right
