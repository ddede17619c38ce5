"""What many blocks share by Triton kernels: the same functions as in `reference.py`, with the same gradients.

Off a GPU, where a model that was planned for one may be moved, the references run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.tensors import fits
from blocks.primitives import norm_kernel, reference, rotary_kernel


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
    made: tuple[Tensor, Tensor] = _AddNorm.apply(a, b, gain, dtype)  # type: ignore[no-untyped-call]
    return made if shared else made[0]


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of x [batch, sequence, heads, head_dim] by each token's rotation."""
    if not (fits(x) and table.dtype == torch.complex64):
        return reference.rotate(x, table)
    made: Tensor = _Rotate.apply(x, table)  # type: ignore[no-untyped-call]
    return made


def norm_rotate(x: Tensor, table: Tensor, gain: Tensor) -> Tensor:
    """Norm each head of x [batch, sequence, heads, head_dim] by one gain [head_dim], then rotate it."""
    if not (fits(x, gain) and table.dtype == torch.complex64):
        return reference.norm_rotate(x, table, gain)
    made: Tensor = _NormRotate.apply(x, table, gain)  # type: ignore[no-untyped-call]
    return made


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, gain: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        normed, total = norm_kernel.add_norm_forward(a, b, gain, dtype)
        ctx.save_for_backward(total, gain)
        ctx.dtypes = a.dtype, b.dtype
        ctx.set_materialize_grads(False)
        return normed, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_norm: Tensor | None, of_total: Tensor | None) -> tuple[Tensor | None, ...]:
        total, gain = ctx.saved_tensors
        return (*norm_kernel.add_norm_backward(of_norm, of_total, total, gain, ctx.dtypes), None)


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(table)
        return rotary_kernel.rotate_forward(x, table, None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (table,) = ctx.saved_tensors
        return rotary_kernel.rotate_backward(gradient, table, None, None)[0], None


class _NormRotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(x, table, gain)
        return rotary_kernel.rotate_forward(x, table, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, table, gain = ctx.saved_tensors
        to_x, to_gain = rotary_kernel.rotate_backward(gradient, table, x, gain)
        return to_x, None, to_gain
