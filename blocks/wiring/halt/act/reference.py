"""Plain PyTorch for adaptive computation time.

Shapes: states are [batch, sequence, width], logits, probabilities and ponder costs [batch, sequence, 1].
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from blocks.kernels.tensors import as_output

_STAYS = 1
_HALTS = 2


def halt_start(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return zeros for the halting probability and ponder cost of states x, at least in fp32."""
    wide = torch.promote_types(x.dtype, torch.float32)
    shape = (*x.shape[:-1], 1)
    return x.new_zeros(shape, dtype=wide), x.new_zeros(shape, dtype=wide)


def halt_update(
    logit: Tensor, new: Tensor, state: Tensor, probability: Tensor, ponder: Tensor, *, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weighted state, the halting probability, and the ponder cost after a step.

    `new` is the state that the step returned. Halted tokens have probability 1.
    """
    made: tuple[Tensor, Tensor, Tensor] = _Update.apply(logit, new, state, probability, ponder, threshold)  # type: ignore[no-untyped-call]
    return made


def halt_update_by_autograd(
    logit: Tensor, new: Tensor, state: Tensor, probability: Tensor, ponder: Tensor, *, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `halt_update` does, with gradients by autograd."""
    step = _step(logit, probability, threshold)
    mixed = ((new - state) * step.weight.to(new.dtype) + state).to(state.dtype)
    return mixed, step.after, ponder + step.running + step.weight * step.halts


class _Step(NamedTuple):
    """The share of the new state, the next halting probability, and which tokens run, halt and go on."""

    weight: Tensor
    after: Tensor
    running: Tensor
    halts: Tensor
    stays: Tensor


def _step(logit: Tensor, probability: Tensor, threshold: float) -> _Step:
    p = logit.to(probability.dtype).sigmoid()
    total, running = probability + p, probability < 1
    halts = running & (total > threshold)
    stays = running & ~halts
    weight = torch.where(halts, 1 - probability, p * stays)
    ones = torch.ones_like(probability)
    after = torch.where(halts, ones, torch.where(stays, total, probability))
    return _Step(weight, after, running, halts, stays)


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logit: Tensor,
        new: Tensor,
        state: Tensor,
        probability: Tensor,
        ponder: Tensor,
        threshold: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight, after, running, halts, stays = _step(logit, probability, threshold)
        # in place: costs assume a single tensor of the width
        mixed = as_output((new - state).mul_(weight.to(new.dtype)).add_(state).to(state.dtype))
        kind = (stays * _STAYS + halts * _HALTS).to(torch.uint8)
        ctx.save_for_backward(new, state, weight, kind)
        ctx.dtype = logit.dtype
        return mixed, after, ponder + running + weight * halts

    @staticmethod
    def backward(ctx: Any, by_mixed: Tensor, by_probability: Tensor, by_ponder: Tensor) -> Any:
        new, state, weight, kind = ctx.saved_tensors
        by_weight = (new - state).mul_(by_mixed).sum(-1, keepdim=True, dtype=weight.dtype)
        by_p = torch.where(kind == _STAYS, by_weight + by_probability, 0)
        by_logit = (by_p * weight * (1 - weight)).to(ctx.dtype)
        by_before = torch.where(kind == _HALTS, -by_weight - by_ponder, by_probability)
        by_new = by_mixed * weight.to(by_mixed.dtype)
        return by_logit, by_new.to(new.dtype), by_mixed - by_new, by_before, by_ponder, None


def token_mean(x: Tensor) -> Tensor:
    """Return the mean of x [batch, sequence, 1] as a scalar."""
    return x.mean()
