"""Triton kernels for RMSNorm without a gain of one value, and the functions that launch them.

A program processes whole values of a tile of tokens in fp32. The backward pass recomputes the scale.
Tensors are [batch, sequence, width].
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.primitives.reference import EPS
from blocks.wiring.residual.mix.mix_kernels.tile_kernel import Launch, load, place, store


def norm_forward(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Return v / rms(v) in a dtype."""
    launch = Launch("norm_latest", value, 1)
    made = torch.empty(value.shape, dtype=dtype, device=value.device)
    launch(launch.tiles, _norm_latest, value.contiguous(), made, EPS)
    return made


def norm_backward(value: Tensor, gradient: Tensor, made: Tensor, add: bool) -> None:
    """Write the gradient of the value to `made`, or with `add` add it."""
    launch = Launch("norm_latest_backward", value, 1)
    launch(launch.tiles, _norm_latest_backward, value.contiguous(), gradient.contiguous(), made, EPS, ADD=add)


@triton.jit
def _norm_latest(
    value,
    made,
    eps,
    slot_stride,
    tokens,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    token, _, at, inside = place(tl.program_id(0), WIDTH, HEADS, BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM)
    there, at_token = inside & (token < tokens), token * WIDTH + at
    x = load(value + at_token, there)
    store(made + at_token, x * tl.rsqrt(tl.sum(x * x, 2, keep_dims=True) / WIDTH + eps), there)


@triton.jit
def _norm_latest_backward(
    value,
    gradient,
    to_value,
    eps,
    slot_stride,
    tokens,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ADD: tl.constexpr,
):
    token, _, at, inside = place(tl.program_id(0), WIDTH, HEADS, BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM)
    there, at_token = inside & (token < tokens), token * WIDTH + at
    x, g = load(value + at_token, there), load(gradient + at_token, there)
    scale = tl.rsqrt(tl.sum(x * x, 2, keep_dims=True) / WIDTH + eps)
    x *= scale
    made = scale * (g - x * (tl.sum(g * x, 2, keep_dims=True) / WIDTH))
    if ADD:
        made += load(to_value + at_token, there)
    store(to_value + at_token, made, there)
