"""Plain PyTorch for residual mixes with ReLU weights; values are [batch, sequence, width]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.backward_passes import running
from blocks.primitives.reference import wide
from blocks.wiring.residual.mix.reference import ValueMemory, split_heads, value_scores, values_read


def rectify(*given: Any, reads: int, heads: int) -> Tensor:
    """Return the sum of values weighted by b + ReLU(w . RMSNorm(value)).

    The values are the start, the first `reads` slots and the partial. `given` are the start, the partial if
    there is one, the order token, the memory, b [most, width] by distance, from the latest value back, and w
    [width]. The gradient of ReLU at 0 is 1 here: w is initialized to 0 and would stay there otherwise.
    """
    *own, token, memory, static, query = given
    result: Tensor = _Rectify.apply(token, memory, static, query, reads, heads, *own)  # type: ignore[no-untyped-call]
    return result


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        token: Tensor,
        memory: ValueMemory,
        static: Tensor,
        query: Tensor,
        reads: int,
        heads: int,
        *own: Tensor,
    ) -> Tensor:
        ctx.memory, ctx.reads, ctx.heads, ctx.made = memory, reads, heads, running()
        latest_first = values_read(own, memory.values[:reads])[::-1]
        scores, scales = value_scores(latest_first, query, heads)
        ctx.save_for_backward(token, static, query, scores, scales, *own)
        total = torch.zeros(own[0].shape, dtype=scores.dtype, device=scores.device)
        for value, shares, score in zip(latest_first, static, scores, strict=False):
            full = wide(value)
            total.addcmul_(full, wide(shares))
            split_heads(total, heads).addcmul_(split_heads(full, heads), score.relu().unsqueeze(-1))
        return total.to(own[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        memory, reads, heads = ctx.memory, ctx.reads, ctx.heads
        memory.check(ctx.made)
        token, static, query, scores, scales, *own = ctx.saved_tensors
        gradient, query_wide = wide(gradient), wide(query)
        by_static, by_query = torch.zeros_like(wide(static)), torch.zeros_like(query_wide)
        by_own = [torch.zeros_like(gradient) for _ in own]
        latest_first = values_read(own, memory.values[:reads])[::-1]
        gathered = values_read(by_own, memory.gradients()[:reads])[::-1]
        for ago, value in enumerate(latest_first):
            full, into, score, scale = wide(value), gathered[ago], scores[ago], scales[ago]
            product = gradient * full
            by_static[ago] = product.sum((0, 1))
            by_dot = split_heads(product, heads).sum(-1)
            del product
            by_dot.mul_(score >= 0)
            shrunk = (by_dot * score).sum(-1, keepdim=True).mul_(scale.square())
            by_dot.mul_(scale)
            by_query += (split_heads(full, heads) * by_dot.unsqueeze(-1)).sum((0, 1)).flatten()
            into.addcmul_(gradient, wide(static[ago]))
            split_heads(into, heads).addcmul_(split_heads(gradient, heads), score.relu().unsqueeze(-1))
            split_heads(into, heads).addcmul_(split_heads(query_wide, heads), by_dot.unsqueeze(-1))
            into.addcmul_(full, shrunk, value=-1 / full.shape[-1])
        returned = (made.to(value.dtype) for made, value in zip(by_own, own, strict=True))
        weights = by_static.to(static.dtype), by_query.to(query.dtype)
        return torch.zeros_like(token), None, *weights, None, None, *returned
