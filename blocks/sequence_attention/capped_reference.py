"""Plain PyTorch for capped scores. q: [B, S, heads, head_dim]; k, v: [B, S, kv_heads, head_dim]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.primitives.reference import wide


def attend_capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, cap: float) -> Tensor:
    """Attend where the mask [S, S] is True with scores cap * tanh(score / cap), at least in fp32."""
    y: Tensor = _Capped.apply(q, k, v, mask, cap)  # type: ignore[no-untyped-call]
    return y


def capped(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, cap: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `attend_capped` does, tanh of the scores, and the weights [B * kv_heads, queries, S]."""
    with torch.autocast(q.device.type, enabled=False):
        scores = torch.bmm(by_heads(q, k.shape[2]), by_heads(k, k.shape[2]).mT)
        turned = scores.mul_(q.shape[-1] ** -0.5 / cap).tanh_()
        weights = masked(turned * cap, mask).softmax(-1)
        y = torch.bmm(weights, by_heads(v, k.shape[2]))
    return by_tokens(y, q).to(v.dtype), turned, weights


class _Capped(torch.autograd.Function):
    """Saves two tensors of all pairs; plain autograd would save four."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, cap: float) -> Tensor:
        y, turned, weights = capped(q, k, v, mask, cap)
        ctx.save_for_backward(q, k, v, turned, weights)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, turned, weights = ctx.saved_tensors
        groups = k.shape[2]
        to_y = by_heads(gradient, groups)
        to_scores = torch.bmm(to_y, by_heads(v, groups).mT)
        to_v = by_tokens(torch.bmm(weights.mT, to_y), v).to(v.dtype)
        del to_y
        to_scores.sub_((weights * to_scores).sum(-1, keepdim=True)).mul_(weights)
        to_scores.sub_((to_scores * turned).mul_(turned)).mul_(q.shape[-1] ** -0.5)
        to_q = by_tokens(torch.bmm(to_scores, by_heads(k, groups)), q).to(q.dtype)
        to_k = by_tokens(torch.bmm(to_scores.mT, by_heads(q, groups)), k).to(k.dtype)
        return to_q, to_k, to_v, None, None


def by_heads(x: Tensor, groups: int) -> Tensor:
    """Return x [B, S, heads, head_dim] as [B * groups, (heads / groups) * S, head_dim], at least in fp32."""
    return wide(x).transpose(1, 2).reshape(len(x) * groups, -1, x.shape[-1])


def by_tokens(x: Tensor, like: Tensor) -> Tensor:
    """Invert `by_heads`; the result has the shape of `like` [B, S, heads, head_dim]."""
    batch, length, heads, size = like.shape
    return x.view(batch, heads, length, size).transpose(1, 2).contiguous()


def masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Set scores [.., n * S, S] to -inf where the mask [S, S] is False, in place; return them."""
    scores.view(len(scores), -1, *mask.shape).masked_fill_(~mask, -torch.inf)
    return scores
