"""Triton kernels for a residual sum followed by RMSNorm, and the functions that launch them.

A program processes whole rows in fp32: it reads the terms once and writes the sum and its norm once. In the
backward pass each program iterates over several tiles of rows and writes its partial sum of the gain's
gradient to a separate row. The rows are summed afterwards, so that results do not depend on the order of
programs. The scale of a row is recomputed from the sum.

Tensors are [..., width] with dense rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.kernels.gpu import architecture, on, padded
from blocks.kernels.tensors import in_rows
from blocks.kernels.weight_sums import partial_sums
from blocks.primitives.reference import EPS
from blocks.primitives.tiles import PROGRAMS, Shape, tile


def add_norm_forward(a: Tensor, b: Tensor, gain: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return (a + b) / rms(a + b) * gain in `dtype`, and a + b in the wider dtype of both."""
    first, second, width = in_rows(a), in_rows(b), a.shape[-1]
    total = torch.empty(a.shape, dtype=torch.promote_types(a.dtype, b.dtype), device=a.device)
    normed = torch.empty(a.shape, dtype=dtype, device=a.device)
    sizes = tile(Shape("add_norm", architecture(a.device), width))
    rows = first.shape[0]
    if rows:
        with on(a.device):
            _add_norm[(triton.cdiv(rows, sizes.rows),)](
                first,
                second,
                gain,
                normed,
                total,
                first.stride(0),
                second.stride(0),
                rows,
                EPS,
                WIDTH=width,
                ROWS=sizes.rows,
                BLOCK=padded(width),
                num_warps=sizes.warps,
            )
    return normed, total


def add_norm_backward(
    gradient: Tensor | None,
    to_total: Tensor | None,
    total: Tensor,
    gain: Tensor,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, b and the gain; a and b share one tensor if their dtypes are equal.

    `gradient` is the gradient of the norm, `to_total` that of the sum; either may be None.
    """
    to_a, to_b, shares = add_norm_backward_shares(gradient, to_total, total, gain, dtypes, {})
    return to_a, to_b, shares.sum(0).to(gain.dtype)


def add_norm_backward_shares(
    gradient: Tensor | None,
    to_total: Tensor | None,
    total: Tensor,
    gain: Tensor,
    dtypes: tuple[torch.dtype, torch.dtype],
    given: dict[int, Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same, but the gain's gradient as fp32 partial sums of each program [programs, width].

    They are added to the entry of `given` for this number of programs, or stored there.
    """
    width = total.shape[-1]
    flat = total.reshape(-1, width)
    to_a = torch.empty(total.shape, dtype=dtypes[0], device=total.device)
    twice = dtypes[0] != dtypes[1]
    to_b = torch.empty(total.shape, dtype=dtypes[1], device=total.device) if twice else to_a
    sizes = tile(Shape("add_norm_backward", architecture(total.device), width))
    rows = flat.shape[0]
    programs = min(PROGRAMS, triton.cdiv(rows, sizes.rows))
    shares, add = partial_sums(given, programs, width, total.device)
    of_norm = flat if gradient is None else in_rows(gradient)
    of_total = flat if to_total is None else in_rows(to_total)
    if rows:
        with on(total.device):
            _add_norm_backward[(programs,)](
                of_norm,
                of_total,
                flat,
                gain,
                to_a,
                to_b,
                shares,
                of_norm.stride(0),
                of_total.stride(0),
                rows,
                programs,
                EPS,
                WIDTH=width,
                ROWS=sizes.rows,
                BLOCK=padded(width),
                NORM=gradient is not None,
                TOTAL=to_total is not None,
                TWICE=twice,
                ADD=add,
                num_warps=sizes.warps,
            )
    return to_a, to_b, shares


@triton.jit
def _add_norm(
    a,
    b,
    gain,
    normed,
    total,
    a_stride,
    b_stride,
    rows,
    eps,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    element = tl.arange(0, BLOCK)[None, :]
    there = (row < rows) & (element < WIDTH)
    x = tl.load(a + row * a_stride + element, mask=there, other=0.0).to(tl.float32)
    x += tl.load(b + row * b_stride + element, mask=there, other=0.0).to(tl.float32)
    # normalize the sum as it is stored
    rounded = x.to(total.dtype.element_ty)
    tl.store(total + row * WIDTH + element, rounded, mask=there)
    x = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / WIDTH + eps)
    g = tl.load(gain + element, mask=element < WIDTH, other=0.0).to(tl.float32)
    tl.store(normed + row * WIDTH + element, (x * scale * g).to(normed.dtype.element_ty), mask=there)


@triton.jit
def _add_norm_backward(
    gradient,
    to_total,
    total,
    gain,
    to_a,
    to_b,
    shares,
    gradient_stride,
    to_total_stride,
    rows,
    programs,
    eps,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    NORM: tl.constexpr,
    TOTAL: tl.constexpr,
    TWICE: tl.constexpr,
    ADD: tl.constexpr,
):
    element = tl.arange(0, BLOCK)[None, :]
    g = tl.load(gain + element, mask=element < WIDTH, other=0.0).to(tl.float32)
    share = tl.full([ROWS, BLOCK], 0.0, tl.float32)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    for _ in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), programs):
        there = (row < rows) & (element < WIDTH)
        made = tl.full([ROWS, BLOCK], 0.0, tl.float32)
        if TOTAL:
            made += tl.load(to_total + row * to_total_stride + element, mask=there, other=0.0).to(tl.float32)
        if NORM:
            x = tl.load(total + row * WIDTH + element, mask=there, other=0.0).to(tl.float32)
            dy = tl.load(gradient + row * gradient_stride + element, mask=there, other=0.0).to(tl.float32)
            scale = tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / WIDTH + eps)
            x *= scale
            share += dy * x
            dy *= g
            made += scale * (dy - x * (tl.sum(dy * x, 1, keep_dims=True) / WIDTH))
        tl.store(to_a + row * WIDTH + element, made.to(to_a.dtype.element_ty), mask=there)
        if TWICE:
            tl.store(to_b + row * WIDTH + element, made.to(to_b.dtype.element_ty), mask=there)
        row += programs * ROWS
    at = tl.arange(0, BLOCK)
    place = shares + tl.program_id(0) * WIDTH + at
    own = tl.sum(share, 0)
    if ADD:
        own += tl.load(place, mask=at < WIDTH, other=0.0)
    tl.store(place, own, mask=at < WIDTH)
