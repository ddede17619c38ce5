"""Doubly stochastic matrices by Sinkhorn-Knopp iterations, as in mHC (arXiv 2512.24880).

Rows and columns are alternately divided by their sums. This only rescales the matrix, so the state is two
vectors per matrix, which the backward pass recomputes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.tensors import as_output
from blocks.primitives.reference import wide
from blocks.wiring.residual.streams.operations import ITERATIONS


def doubly_stochastic(logits: Tensor) -> Tensor:
    """Return exp(logits) after `ITERATIONS` normalizations of its rows, then columns, to sums of 1.

    logits: [batch, sequence, n, n]. Columns sum to 1, rows nearly. Computed at least in fp32; the result has
    the dtype of the logits.
    """
    made: Tensor = _Sinkhorn.apply(logits)  # type: ignore[no-untyped-call]
    return made


def doubly_stochastic_by_autograd(logits: Tensor) -> Tensor:
    """Do what `doubly_stochastic` does, with gradients by autograd."""
    return _scaled(_powers(logits), logits)


def _powers(logits: Tensor) -> Tensor:
    """Return exp(logits) [n, n, tokens]; a factor of each row does not change the result."""
    # tokens last, so that sums over a few elements are sums of long vectors
    powers = wide(logits).flatten(0, 1).permute(1, 2, 0).contiguous()
    return (powers - powers.detach().amax(1, keepdim=True)).exp_()


def _scaled(powers: Tensor, like: Tensor) -> Tensor:
    """Return the doubly stochastic matrices of powers, like logits in shape and dtype."""
    rows, columns = _iterate(powers)
    made = powers * rows[-1].unsqueeze(1) * columns[-1]
    return made.permute(2, 0, 1).reshape(like.shape).to(like.dtype)


class _Sinkhorn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        powers = _powers(logits)
        ctx.save_for_backward(powers)
        ctx.shape, ctx.dtype = logits.shape, logits.dtype
        return as_output(_scaled(powers, logits))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (powers,) = ctx.saved_tensors
        rows, columns = _iterate(powers)
        gradient = gradient.to(powers.dtype).flatten(0, 1).permute(1, 2, 0).contiguous()
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
        return by_power.mul_(powers).permute(2, 0, 1).reshape(ctx.shape).to(ctx.dtype)


def _iterate(powers: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the factors of rows and of columns, [n, tokens] each, after each iteration, from ones on."""
    rows, columns = [], [torch.ones_like(powers[0])]
    for _ in range(ITERATIONS):
        rows.append((powers * columns[-1]).sum(1).reciprocal_())
        columns.append((powers * rows[-1].unsqueeze(1)).sum(0).reciprocal_())
    return rows, columns
