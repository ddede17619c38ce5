"""The head and the cross-entropy at every step by chunks of tokens, as in `by_chunks.py`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blocks.primitives.reference import product_dtype
from blocks.wiring.loss.cross_entropy.by_chunks import Sums, counted, refuse_gradients, scaled, sums
from blocks.wiring.loss.cross_entropy.reference import step_weights


def steps_head_loss(
    states: Sequence[Tensor], targets: Tensor, weight: Tensor, weighting: str, way: Sums = sums
) -> tuple[Tensor, Tensor]:
    """Do the same as `steps_cross_entropy`, with one gradient of the weight for all steps."""
    rows = [state.flatten(0, 1) for state in states]
    shares = step_weights(len(rows), weighting)
    loss, last = _StepsHeadLoss.apply(  # type: ignore[no-untyped-call]
        weight, targets.flatten(), product_dtype(rows[0]), shares, way, *rows
    )
    return loss, last


class _StepsHeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        targets: Tensor,
        dtype: torch.dtype,
        shares: Sequence[float],
        way: Sums,
        *rows: Tensor,
    ) -> tuple[Tensor, Tensor]:
        to_rows: list[Tensor | None] = []
        to_weight, total = None, torch.zeros((), device=weight.device)
        wanted = (any(ctx.needs_input_grad[5:]), ctx.needs_input_grad[0])
        for row, share in zip(rows, shares, strict=True):
            last, made, to_weight = way(row, weight, targets, dtype, wanted, share, to_weight)
            to_rows.append(made)
            total = total + share * last
        number = counted(targets)
        ctx.dtypes = rows[0].dtype, weight.dtype
        ctx.save_for_backward(number, to_weight, *to_rows)
        last = last / number
        ctx.mark_non_differentiable(last)
        return total / number, last

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        refuse_gradients()
        number, to_weight, *to_rows = ctx.saved_tensors
        scale = gradient / number
        made = (scaled(each, scale, ctx.dtypes[0]) for each in to_rows)
        return scaled(to_weight, scale, ctx.dtypes[1]), None, None, None, None, *made
