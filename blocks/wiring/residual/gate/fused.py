"""The functions of `reference.py` with Triton kernels; outputs and gradients are the same.

They take the weights as `prepare_*` return them: the gain, and all weights of the gate in one tensor. On a
CPU, to which a model planned for a GPU may be moved, the references run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.tensors import fits
from blocks.kernels.weight_sums import WeightSum, sum_of, summed
from blocks.primitives.fused import attach_norm, put_shares, shares_of, sum_gain
from blocks.primitives.reference import product_dtype
from blocks.wiring.residual.gate import kernel, reference
from blocks.wiring.residual.gate.operations import Gate


def prepare_sum(*weights: Tensor) -> tuple[Tensor]:
    """Return the weights of a gate in one tensor: the projection if there is one, then the numbers."""
    return (summed([weight.flatten() for weight in reversed(weights)], weights[0].dtype),)


def prepare_norm(gain: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gain of the norm, and the weights of the gate in one tensor."""
    return *sum_gain(gain), *prepare_sum(*weights)


def gated_sum(a: Tensor, b: Tensor, weights: Tensor, gate: Gate) -> Tensor:
    """Return a + gate * b."""
    if not fits(a, b, weights):
        return reference.gated_sum(a, b, *apart(weights, gate), gate=gate)
    return _gated(a, b, None, weights, gate, False)[0]


def gated_add_norm(
    a: Tensor, b: Tensor, gain: Tensor, weights: Tensor, gate: Gate, narrow: bool, shared: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the norm of a + gate * b, and the sum if `shared`; with `narrow` it is in the autocast dtype."""
    if not fits(a, b, gain, weights):
        given = (a, b, gain, *apart(weights, gate))
        return reference.gated_add_norm(*given, gate=gate, narrow=narrow, shared=shared)
    total, normed = _gated(a, b, gain, weights, gate, narrow)
    return (normed, total) if shared else normed


def gated_add_before_norm(
    a: Tensor, b: Tensor, gain: Tensor, weights: Tensor, gate: Gate, narrow: bool, index: int, last: int
) -> Tensor:
    """Return a + gate * b with its norm attached for `precomputed_norm`; without it at the last step."""
    if index == last or not fits(a, b, gain, weights):
        return gated_sum(a, b, weights, gate)
    total, normed = _gated(a, b, gain, weights, gate, narrow)
    return attach_norm(total, normed, gain)


def apart(weights: Tensor, gate: Gate) -> tuple[Tensor, ...]:
    """Return the weights of a gate as the reference takes them."""
    return (weights[-1:], weights[None, :-1]) if gate == "token" else (weights,)


def _gated(
    a: Tensor, b: Tensor, gain: Tensor | None, weights: Tensor, gate: Gate, narrow: bool
) -> tuple[Tensor, ...]:
    total = torch.promote_types(a.dtype, b.dtype)
    dtype = product_dtype(a if a.dtype == total else b) if narrow else total
    sums = None if gain is None else sum_of(gain), sum_of(weights)
    made: tuple[Tensor, ...] = _Gated.apply(a, b, gain, weights, gate, dtype, sums)  # type: ignore[no-untyped-call]
    return made


class _Gated(torch.autograd.Function):
    """The sum and its norm, or without a gain the sum alone."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        gain: Tensor | None,
        weights: Tensor,
        gate: Gate,
        dtype: torch.dtype,
        sums: tuple[WeightSum | None, WeightSum | None],
    ) -> tuple[Tensor, ...]:
        total, normed = kernel.forward(a, b, gain, weights, gate, dtype)
        stream = a if gate == "token" else None
        ctx.save_for_backward(stream, b, None if normed is None else total, gain, weights)
        ctx.gate, ctx.sums, ctx.dtype = gate, sums, a.dtype
        ctx.set_materialize_grads(False)
        return (total,) if normed is None else (total, normed)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_total: Tensor | None, of_norm: Tensor | None = None
    ) -> tuple[Tensor | None, ...]:
        kept, (of_gain, of_weights) = ctx.saved_tensors, ctx.sums
        shares = shares_of(of_gain), shares_of(of_weights)
        to_a, to_b = kernel.backward(of_total, of_norm, kept, ctx.gate, ctx.dtype, shares)
        *_, gain, weights = kept
        to_gain = None if gain is None else put_shares(of_gain, shares[0], gain.dtype)
        return to_a, to_b, to_gain, put_shares(of_weights, shares[1], weights.dtype), None, None, None
