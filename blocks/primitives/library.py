"""The fused operations of `blocks.primitives` as torch operators, for graphs, tracers and counters.

`fused.py` calls the same kernels directly. Importing this module registers the operators with their fake
kernels; they have no matrix products, so they count no FLOPs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blocks.primitives import norm_kernel, rotary_kernel

_NAME = "attention_composer"


@torch.library.custom_op(f"{_NAME}::add_norm", mutates_args=())
def add_norm(a: Tensor, b: Tensor, gain: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (a + b) / rms(a + b) * gain in a dtype, and a + b; a, b: [batch, sequence, width]."""
    return norm_kernel.add_norm_forward(a, b, gain, dtype)


@torch.library.custom_op(f"{_NAME}::add_norm_backward", mutates_args=())
def add_norm_backward(
    of_norm: Tensor, of_total: Tensor, total: Tensor, gain: Tensor, first: torch.dtype, second: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of the terms, each in its dtype, and of the gain."""
    to_a, to_b, to_gain = norm_kernel.add_norm_backward(of_norm, of_total, total, gain, (first, second))
    # outputs of an operator may not be one tensor
    return to_a, to_b.clone() if to_b is to_a else to_b, to_gain


@torch.library.custom_op(f"{_NAME}::norm_rotate", mutates_args=())
def norm_rotate(x: Tensor, table: Tensor, gain: Tensor) -> Tensor:
    """Norm each head of x [batch, sequence, heads, head_dim] by one gain, then turn it by its token's row."""
    return rotary_kernel.rotate_forward(x, table, gain)


@torch.library.custom_op(f"{_NAME}::norm_rotate_backward", mutates_args=())
def norm_rotate_backward(gradient: Tensor, table: Tensor, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of x and of the gain."""
    to_x, to_gain = rotary_kernel.rotate_backward(gradient, table, x, gain)
    assert to_gain is not None
    return to_x, to_gain


@add_norm.register_fake
def _(a: Tensor, b: Tensor, gain: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    total = torch.promote_types(a.dtype, b.dtype)
    return a.new_empty(a.shape, dtype=dtype), a.new_empty(a.shape, dtype=total)


@add_norm_backward.register_fake
def _(
    of_norm: Tensor, of_total: Tensor, total: Tensor, gain: Tensor, first: torch.dtype, second: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    terms = (total.new_empty(total.shape, dtype=dtype) for dtype in (first, second))
    return next(terms), next(terms), gain.new_empty(gain.shape)


@norm_rotate.register_fake
def _(x: Tensor, table: Tensor, gain: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@norm_rotate_backward.register_fake
def _(gradient: Tensor, table: Tensor, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), gain.new_empty(gain.shape)


def _keep_sum(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    a, b, gain, _ = inputs
    ctx.save_for_backward(output[1], gain)
    ctx.dtypes = a.dtype, b.dtype


def _through_norm(ctx: Any, of_norm: Tensor, of_total: Tensor) -> tuple[Tensor | None, ...]:
    return (*add_norm_backward(of_norm, of_total, *ctx.saved_tensors, *ctx.dtypes), None)


def _keep_heads(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _through_turn(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, table, gain = ctx.saved_tensors
    to_x, to_gain = norm_rotate_backward(gradient, table, x, gain)
    return to_x, None, to_gain


add_norm.register_autograd(_through_norm, setup_context=_keep_sum)
norm_rotate.register_autograd(_through_turn, setup_context=_keep_heads)
