"""Triton kernels for a gated residual sum, alone or followed by RMSNorm, and the functions that launch them.

They work as those of `primitives/norm_kernel.py`: on whole rows in fp32, with partial sums of the gradients
of weights by program. `weights` are those of the gate in one tensor: the number, or one per channel; with the
gate `token` the projection of the stream a to the logit [width], then the number.

Tensors are [..., width] with dense rows.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.kernels.gpu import architecture, on, padded
from blocks.kernels.tensors import in_rows
from blocks.kernels.weight_sums import partial_sums
from blocks.primitives.reference import EPS
from blocks.primitives.tiles import PROGRAMS, Shape, Tile, tile


def forward(
    a: Tensor, b: Tensor, gain: Tensor | None, weights: Tensor, gate: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """Return a + gate * b in the wider dtype of both, and with a gain its norm in `dtype`."""
    first, second = in_rows(a), in_rows(b)
    total = torch.empty(a.shape, dtype=torch.promote_types(a.dtype, b.dtype), device=a.device)
    normed = None if gain is None else torch.empty(a.shape, dtype=dtype, device=a.device)
    sizes = tile(Shape("add_norm", architecture(a.device), a.shape[-1]))
    tensors = (first, second, gain, weights, normed, total)
    programs = triton.cdiv(len(first), sizes.rows)
    _start(_forward, programs, sizes, total, *tensors, first.stride(0), second.stride(0), GATE=gate)
    return total, normed


def backward(
    of_total: Tensor | None,
    of_norm: Tensor | None,
    kept: tuple[Tensor | None, Tensor, Tensor | None, Tensor | None, Tensor],
    gate: str,
    dtype: torch.dtype,
    sums: tuple[dict[int, Tensor], dict[int, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a, in `dtype`, and b.

    `kept` are a if it makes the logit, b, the sum if its norm was returned, the gain and the weights. Partial
    sums of the gradients of the gain and the weights [programs, elements] are added to the entries of `sums`
    for this number of programs, or stored there.
    """
    a, b, total, gain, weights = kept
    second, width = in_rows(b), b.shape[-1]
    to_a = torch.empty(b.shape, dtype=dtype, device=b.device)
    to_b = torch.empty(b.shape, dtype=b.dtype, device=b.device)
    sizes = tile(Shape("add_norm_backward", architecture(b.device), width))
    programs = min(PROGRAMS, triton.cdiv(len(second), sizes.rows))
    shares, add = (None, False) if gain is None else partial_sums(sums[0], programs, width, b.device)
    weight_shares, add_weights = partial_sums(sums[1], programs, weights.numel(), b.device)
    rows = [None if each is None else in_rows(each) for each in (of_norm, of_total, a)]
    strides = [0 if each is None else each.stride(0) for each in (*rows, second)]
    tensors = (*rows, second, total, gain, weights, to_a, to_b, shares, weight_shares)
    flags = {"GATE": gate, "ADD": add, "ADD_WEIGHTS": add_weights, "COLUMNS": weights.numel()}
    _start(_backward, programs, sizes, to_a, *tensors, *strides, programs, **flags)
    return to_a, to_b


def _start(kernel: Any, programs: int, sizes: Tile, like: Tensor, *arguments: Any, **flags: Any) -> None:
    width = like.shape[-1]
    if programs:
        with on(like.device):
            kernel[(programs,)](
                *arguments,
                like.numel() // width,
                EPS,
                WIDTH=width,
                ROWS=sizes.rows,
                BLOCK=padded(width),
                num_warps=sizes.warps,
                **flags,
            )


@triton.jit
def _row(x, element, WIDTH: tl.constexpr):
    """Load a row of weights in fp32."""
    return tl.load(x + element, mask=element < WIDTH, other=0.0).to(tl.float32)


@triton.jit
def _forward(
    a,
    b,
    gain,
    weights,
    normed,
    total,
    a_stride,
    b_stride,
    rows,
    eps,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    GATE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    element = tl.arange(0, BLOCK)[None, :]
    there = (row < rows) & (element < WIDTH)
    x = tl.load(a + row * a_stride + element, mask=there, other=0.0).to(tl.float32)
    if GATE == "token":
        logit = tl.sum(x * _row(weights, element, WIDTH), 1, keep_dims=True)
        factor = tl.load(weights + WIDTH).to(tl.float32) * tl.sigmoid(logit)
    elif GATE == "channel":
        factor = _row(weights, element, WIDTH)
    else:
        factor = tl.load(weights).to(tl.float32)
    x += factor * tl.load(b + row * b_stride + element, mask=there, other=0.0).to(tl.float32)
    # normalize the sum as it is stored
    rounded = x.to(total.dtype.element_ty)
    tl.store(total + row * WIDTH + element, rounded, mask=there)
    if normed is not None:
        x = rounded.to(tl.float32)
        x *= tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / WIDTH + eps)
        x *= _row(gain, element, WIDTH)
        tl.store(normed + row * WIDTH + element, x.to(normed.dtype.element_ty), mask=there)


@triton.jit
def _backward(
    of_norm,
    of_total,
    a,
    b,
    total,
    gain,
    weights,
    to_a,
    to_b,
    shares,
    weight_shares,
    of_norm_stride,
    of_total_stride,
    a_stride,
    b_stride,
    programs,
    rows,
    eps,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    GATE: tl.constexpr,
    ADD: tl.constexpr,
    ADD_WEIGHTS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    element = tl.arange(0, BLOCK)[None, :]
    if gain is not None:
        g = _row(gain, element, WIDTH)
        share = tl.full([ROWS, BLOCK], 0.0, tl.float32)
    if GATE == "token":
        w = _row(weights, element, WIDTH)
        number = tl.load(weights + WIDTH).to(tl.float32)
        to_number = tl.full([ROWS, 1], 0.0, tl.float32)
    elif GATE == "channel":
        factor = _row(weights, element, WIDTH)
    else:
        factor = tl.load(weights).to(tl.float32)
    to_weights = tl.full([ROWS, BLOCK], 0.0, tl.float32)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    for _ in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), programs):
        there = (row < rows) & (element < WIDTH)
        made = tl.full([ROWS, BLOCK], 0.0, tl.float32)
        if of_total is not None:
            made += tl.load(of_total + row * of_total_stride + element, mask=there, other=0.0).to(tl.float32)
        if of_norm is not None:
            x = tl.load(total + row * WIDTH + element, mask=there, other=0.0).to(tl.float32)
            dy = tl.load(of_norm + row * of_norm_stride + element, mask=there, other=0.0).to(tl.float32)
            scale = tl.rsqrt(tl.sum(x * x, 1, keep_dims=True) / WIDTH + eps)
            x *= scale
            share += dy * x
            dy *= g
            made += scale * (dy - x * (tl.sum(dy * x, 1, keep_dims=True) / WIDTH))
        by_factor = made * tl.load(b + row * b_stride + element, mask=there, other=0.0).to(tl.float32)
        if GATE == "token":
            stream = tl.load(a + row * a_stride + element, mask=there, other=0.0).to(tl.float32)
            sigmoid = tl.sigmoid(tl.sum(stream * w, 1, keep_dims=True))
            by_number = tl.sum(by_factor, 1, keep_dims=True) * sigmoid
            to_number += by_number
            factor = number * sigmoid
            by_logit = by_number * number * (1 - sigmoid)
            to_weights += by_logit * stream
            tl.store(to_b + row * WIDTH + element, (made * factor).to(to_b.dtype.element_ty), mask=there)
            made += by_logit * w
        else:
            to_weights += by_factor
            tl.store(to_b + row * WIDTH + element, (made * factor).to(to_b.dtype.element_ty), mask=there)
        tl.store(to_a + row * WIDTH + element, made.to(to_a.dtype.element_ty), mask=there)
        row += programs * ROWS
    at = tl.arange(0, BLOCK)
    if gain is not None:
        _add(shares + tl.program_id(0) * WIDTH + at, tl.sum(share, 0), at < WIDTH, ADD)
    place = weight_shares + tl.program_id(0) * COLUMNS
    if GATE == "scalar":
        _add(place + tl.arange(0, 1), tl.sum(tl.sum(to_weights, 1, keep_dims=True), 0), True, ADD_WEIGHTS)
    else:
        _add(place + at, tl.sum(to_weights, 0), at < WIDTH, ADD_WEIGHTS)
    if GATE == "token":
        _add(place + WIDTH + tl.arange(0, 1), tl.sum(to_number, 0), True, ADD_WEIGHTS)


@triton.jit
def _add(place, own, there, ADD: tl.constexpr):
    """Store partial sums, or add to those that are there."""
    if ADD:
        own += tl.load(place, mask=there, other=0.0)
    tl.store(place, own, mask=there)
