"""What many blocks share by Triton kernels: the same functions as in `reference.py`, with the same gradients.

Off a GPU, where a model that was planned for one may be moved, the references run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.tensors import fits
from blocks.kernels.weight_sums import WeightSum, sum_of, summed
from blocks.primitives import library, norm_kernel, reference


def add_norm(
    a: Tensor, b: Tensor, gain: Tensor, narrow: bool, shared: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Return (a + b) / rms(a + b) * gain, and a + b where it is shared; a, b: [batch, sequence, width].

    With `narrow` the first is in the precision that products are cast to.
    """
    if not fits(a, b, gain):
        return reference.add_norm(a, b, gain, narrow, shared)
    total = torch.promote_types(a.dtype, b.dtype)
    dtype = reference.product_dtype(a if a.dtype == total else b) if narrow else total
    shares = sum_of(gain)
    made: tuple[Tensor, Tensor]
    if shares is None:
        made = library.add_norm(a, b, gain, dtype)
    else:
        made = _AddNorm.apply(a, b, gain, dtype, shares)  # type: ignore[no-untyped-call]
    return made if shared else made[0]


def sum_gain(gain: Tensor) -> tuple[Tensor]:
    """Make a gain ready, with a sum for its gradient."""
    return (summed([gain], gain.dtype),)


class _AddNorm(torch.autograd.Function):
    """`library.add_norm`, with the shares of the gain's gradient added up over steps and summed once."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, gain: Tensor, dtype: torch.dtype, shares: WeightSum
    ) -> tuple[Tensor, Tensor]:
        made: tuple[Tensor, Tensor] = library.add_norm(a, b, gain, dtype)
        ctx.save_for_backward(made[1], gain)
        ctx.dtypes, ctx.shares = (a.dtype, b.dtype), shares
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_norm: Tensor | None, of_total: Tensor | None) -> tuple[Tensor | None, ...]:
        so_far: dict[int, Tensor] = ctx.shares.so_far() or {}
        given = (of_norm, of_total, *ctx.saved_tensors, ctx.dtypes, so_far)
        to_a, to_b, _ = norm_kernel.add_norm_backward_shares(*given)
        if ctx.needs_input_grad[2]:
            ctx.shares.put(so_far, _summed_shares)
        return to_a, to_b, None, None, None


def _summed_shares(shares: dict[int, Tensor]) -> Tensor:
    """Return the sum of all programs' shares."""
    return torch.cat([*shares.values()]).sum(0) if len(shares) > 1 else next(iter(shares.values())).sum(0)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of x [batch, sequence, heads, head_dim] by each token's rotation."""
    if not (fits(x) and table.dtype == torch.complex64):
        return reference.rotate(x, table)
    made: Tensor = library.rotate(x, table)
    return made


def norm_rotate(x: Tensor, table: Tensor, gain: Tensor) -> Tensor:
    """Norm each head of x [batch, sequence, heads, head_dim] by one gain [head_dim], then rotate it."""
    if not (fits(x, gain) and table.dtype == torch.complex64):
        return reference.norm_rotate(x, table, gain)
    made: Tensor = library.norm_rotate(x, table, gain)
    return made


def sum_weight(*weights: Tensor) -> tuple[Tensor]:
    """Make the weights [n_i, fan_in] of a projection ready as `join` does, with a sum for their gradients."""
    return (summed(weights, reference.product_dtype(weights[0]), reference.alignment(weights[0])),)


def project(x: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Return x @ weight.T split into `shape`; the gradient of the weight goes to its sum, if it has one."""
    y = _linear(x, weight)
    return y.view(*y.shape[:2], *shape)


def project_joined(x: Tensor, weight: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Return one output for each shape, made by one product with the joined weight."""
    return reference.parted(_linear(x, weight), shapes, reference.alignment(weight))


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    total = sum_of(weight)
    if total is None:
        return F.linear(x.flatten(2), weight)
    given = x.flatten(2).to(weight.dtype)
    made: Tensor = _Linear.apply(given, weight, total)  # type: ignore[no-untyped-call]
    return made


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, total: WeightSum) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.total = total
        return F.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x = to_weight = None
        with torch.autocast(x.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                to_x = gradient @ weight
            if ctx.needs_input_grad[1]:
                rows, given = gradient.flatten(0, -2).t(), x.flatten(0, -2)
                if torch.is_grad_enabled():
                    # of a gradient of gradients autograd has to know each product
                    to_weight = rows @ given
                else:
                    ctx.total.add_product(rows, given)
        return to_x, to_weight, None
