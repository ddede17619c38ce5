"""Doubly stochastic matrices by Sinkhorn-Knopp iterations, as in mHC (arXiv 2512.24880).

Rows and columns are alternately divided by their sums. This only rescales the matrix, so the state is two
vectors per matrix, which the backward pass recomputes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.primitives.reference import wide
from blocks.wiring.residual.streams.operations import ITERATIONS


def doubly_stochastic(logits: Tensor) -> Tensor:
    """Return exp(logits) after `ITERATIONS` normalizations of its rows, then columns, to sums of 1.

    logits: [batch, sequence, n, n]. Columns sum to 1, rows nearly. Computed at least in fp32; the result has
    the dtype of the logits.
    """
    made: Tensor = _Sinkhorn.apply(logits)  # type: ignore[no-untyped-call]
    return made


class _Sinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        # tokens last, so that sums over a few elements are sums of long vectors
        powers = _tokens_last(wide(logits))
        powers = (powers - powers.amax(1, keepdim=True)).exp_()
        ctx.save_for_backward(powers)
        ctx.shape, ctx.dtype = logits.shape, logits.dtype
        rows, columns = _iterate(powers)
        return _tokens_first(powers * rows[-1].unsqueeze(1) * columns[-1], ctx.shape).to(ctx.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (powers,) = ctx.saved_tensors
        rows, columns = _iterate(powers)
        gradient = _tokens_last(gradient.to(powers.dtype))
        weighted = gradient * powers
        by_row = (weighted * columns[-1]).sum(1)
        by_column = (weighted * rows[-1].unsqueeze(1)).sum(0)
        by_power = (gradient * rows[-1].unsqueeze(1)).mul_(columns[-1])
        for row, column, before in zip(reversed(rows), reversed(columns), columns[-2::-1], strict=False):
            by_sum = by_column.mul_(column.square()).neg_()
            by_power.addcmul_(row.unsqueeze(1), by_sum)
            by_row = by_row + (powers * by_sum).sum(1) if row is rows[-1] else (powers * by_sum).sum(1)
            by_sum = by_row.mul_(row.square()).neg_().unsqueeze(1)
            by_power.addcmul_(by_sum, before)
            by_column = (powers * by_sum).sum(0)
        return _tokens_first(by_power.mul_(powers), ctx.shape).to(ctx.dtype)


def _iterate(powers: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the factors of rows and of columns, [n, tokens] each, after each iteration, from ones on."""
    rows, columns = [], [torch.ones_like(powers[0])]
    for _ in range(ITERATIONS):
        rows.append((powers * columns[-1]).sum(1).reciprocal_())
        columns.append((powers * rows[-1].unsqueeze(1)).sum(0).reciprocal_())
    return rows, columns


def _tokens_last(x: Tensor) -> Tensor:
    return x.flatten(0, 1).permute(1, 2, 0).contiguous()


def _tokens_first(x: Tensor, shape: torch.Size) -> Tensor:
    return x.permute(2, 0, 1).reshape(shape)
