"""The Triton kernels of `blocks.primitives` as torch operators, with fake kernels and gradients.

They have no matrix products, so FLOP counters count none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blocks.primitives import norm_kernel, rotary_kernel

_NAME = "attention_composer"


@torch.library.custom_op(f"{_NAME}::add_norm", mutates_args=())
def add_norm(a: Tensor, b: Tensor, gain: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (a + b) / rms(a + b) * gain in `dtype`, and a + b; a, b: [batch, sequence, width]."""
    return norm_kernel.add_norm_forward(a, b, gain, dtype)


@torch.library.custom_op(f"{_NAME}::add_norm_backward", mutates_args=())
def add_norm_backward(
    of_norm: Tensor | None,
    of_total: Tensor | None,
    total: Tensor,
    gain: Tensor,
    first: torch.dtype,
    second: torch.dtype,
) -> list[Tensor]:
    """Return the gradients of the gain and of both terms, one tensor for both if their dtypes are equal.

    `of_norm` and `of_total` are the gradients of the outputs; either may be None.
    """
    to_a, to_b, to_gain = norm_kernel.add_norm_backward(of_norm, of_total, total, gain, (first, second))
    return [to_gain, to_a] if to_b is to_a else [to_gain, to_a, to_b]


@torch.library.custom_op(f"{_NAME}::rotate", mutates_args=())
def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate the pairs (2i, 2i + 1) of x [batch, sequence, heads, head_dim] by each token's table row."""
    return rotary_kernel.rotate_forward(x, table, None)


@torch.library.custom_op(f"{_NAME}::rotate_backward", mutates_args=())
def rotate_backward(gradient: Tensor, table: Tensor) -> Tensor:
    """Return the gradient of x: the gradient of the output, rotated back."""
    return rotary_kernel.rotate_backward(gradient, table, None, None)[0]


@torch.library.custom_op(f"{_NAME}::norm_rotate", mutates_args=())
def norm_rotate(x: Tensor, table: Tensor, gain: Tensor) -> Tensor:
    """Normalize each head of x [batch, sequence, heads, head_dim] with a gain [head_dim], then rotate it."""
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
    of_norm: Tensor | None,
    of_total: Tensor | None,
    total: Tensor,
    gain: Tensor,
    first: torch.dtype,
    second: torch.dtype,
) -> list[Tensor]:
    dtypes = dict.fromkeys((first, second))
    return [gain.new_empty(gain.shape), *(total.new_empty(total.shape, dtype=dtype) for dtype in dtypes)]


@rotate.register_fake
def _(x: Tensor, table: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@rotate_backward.register_fake
def _(gradient: Tensor, table: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape)


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
    ctx.set_materialize_grads(False)


def _add_norm_gradients(ctx: Any, of_norm: Tensor | None, of_total: Tensor | None) -> tuple[Any, ...]:
    to_gain, *to_terms = add_norm_backward(of_norm, of_total, *ctx.saved_tensors, *ctx.dtypes)
    return to_terms[0], to_terms[-1], to_gain, None


def _keep_table(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _rotate_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return rotate_backward(gradient, *ctx.saved_tensors), None


def _keep_heads(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _norm_rotate_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, table, gain = ctx.saved_tensors
    to_x, to_gain = norm_rotate_backward(gradient, table, x, gain)
    return to_x, None, to_gain


add_norm.register_autograd(_add_norm_gradients, setup_context=_keep_sum)
rotate.register_autograd(_rotate_gradients, setup_context=_keep_table)
norm_rotate.register_autograd(_norm_rotate_gradients, setup_context=_keep_heads)
