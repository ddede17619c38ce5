"""Triton kernels for the rows of experts, and the functions that launch them.

Rows are sorted by expert; `order` and `place` are those of `Routed`. `spread` copies a token to its rows and
`total` sums them; each is the gradient of the other. Both iterate over tokens, so that a token is read or
written once and sums have a fixed order. Every row belongs to a token, so all rows are initialized. `swiglu`
weights its rows, so that the outputs of the second product only need to be summed. All arithmetic is in fp32;
the kernels are memory-bound.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.expert_attention.tiles import Pass, Shape, Tile, tile
from blocks.kernels.gpu import architecture, on


def spread(x: Tensor, place: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the token of each row [rows, width] in `dtype`; x: [tokens, width]."""
    (tokens, active), width = place.shape, x.shape[1]
    rows = torch.empty((tokens * active, width), dtype=dtype, device=x.device)
    x = x if x.stride(1) == 1 else x.contiguous()
    _start("spread", _spread, tokens, width, x, place, rows, tokens, x.stride(0), ACTIVE=active)
    return rows


def total(rows: Tensor, place: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the sum of each token's rows [tokens, width] in `dtype`; rows: [rows, width]."""
    (tokens, active), width = place.shape, rows.shape[1]
    summed = torch.empty((tokens, width), dtype=dtype, device=rows.device)
    _start("sum", _total, tokens, width, rows, place, summed, tokens, ACTIVE=active)
    return summed


def swiglu(both: Tensor, weights: Tensor, order: Tensor) -> Tensor:
    """Return silu(gate) * up * weight [rows, hidden]; both: joined gate and up [rows, 2 * hidden]."""
    rows, hidden = both.shape[0], both.shape[1] // 2
    inner = torch.empty((rows, hidden), dtype=both.dtype, device=both.device)
    _start("swiglu", _swiglu, rows, hidden, both, weights, order, inner, rows)
    return inner


def swiglu_backward(
    gradient: Tensor, both: Tensor, weights: Tensor, order: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `both` and of the weights, and the output of `swiglu`.

    The last overwrites `gradient` [rows, hidden].
    """
    rows, hidden = gradient.shape
    to_both, to_weights = torch.empty_like(both), torch.empty_like(weights)
    tensors = (gradient, both, weights, order, to_both, to_weights, gradient)
    _start("swiglu_backward", _swiglu_backward, rows, hidden, *tensors, rows)
    return to_both, to_weights, gradient


def _start(kernel: Pass, function: Any, rows: int, width: int, *arguments: Any, **flags: Any) -> None:
    """Launch a kernel on rows of a width; do nothing without rows."""
    if not rows:
        return
    device = arguments[0].device
    sizes: Tile = tile(Shape(kernel, architecture(device), width))
    whole = kernel == "swiglu_backward"
    grid = (triton.cdiv(rows, sizes.rows), 1 if whole else triton.cdiv(width, sizes.columns))
    with on(device):
        function[grid](
            *arguments,
            **flags,
            WIDTH=width,
            BLOCK_ROWS=sizes.rows,
            BLOCK_COLUMNS=sizes.columns,
            num_warps=sizes.warps,
            enable_fp_fusion=True,
        )


@triton.jit
def _block(rows, WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Return this program's rows, its columns, and the masks of rows and elements.

    Rows are int64, since offsets may exceed 2^31.
    """
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)[None, :]
    return row, column, row < rows, (row < rows) & (column < WIDTH)


@triton.jit
def _load(pointers, mask):
    """Load as fp32, with 0 where masked."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _spread(
    x,
    place,
    made,
    tokens,
    stride,
    ACTIVE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    token, column, there, inside = _block(tokens, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS)
    loaded = _load(x + token * stride + column, inside).to(made.dtype.element_ty)
    for number in tl.static_range(ACTIVE):
        row = tl.load(place + token * ACTIVE + number, mask=there, other=0).to(tl.int64)
        tl.store(made + row * WIDTH + column, loaded, mask=inside)


@triton.jit
def _total(
    rows,
    place,
    made,
    tokens,
    ACTIVE: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    token, column, there, inside = _block(tokens, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS)
    summed = tl.full([BLOCK_ROWS, BLOCK_COLUMNS], 0.0, tl.float32)
    for number in tl.static_range(ACTIVE):
        row = tl.load(place + token * ACTIVE + number, mask=there, other=0).to(tl.int64)
        summed += _load(rows + row * WIDTH + column, inside)
    tl.store(made + token * WIDTH + column, summed.to(made.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu(
    both,
    weights,
    order,
    made,
    rows,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    row, column, there, inside = _block(rows, WIDTH, BLOCK_ROWS, BLOCK_COLUMNS)
    weight = _load(weights + tl.load(order + row, mask=there, other=0), there)
    at = both + row * (2 * WIDTH) + column
    gate, up = _load(at, inside), _load(at + WIDTH, inside)
    inner = gate / (1 + tl.exp(-gate)) * up * weight
    tl.store(made + row * WIDTH + column, inner.to(made.dtype.element_ty), mask=inside)


@triton.jit
def _swiglu_backward(
    gradient,
    both,
    weights,
    order,
    to_both,
    to_weights,
    made,
    rows,
    WIDTH: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)[:, None]
    there = row < rows
    choice = tl.load(order + row, mask=there, other=0)
    weight = _load(weights + choice, there)
    to_weight = tl.full([BLOCK_ROWS, 1], 0.0, tl.float32)
    # a program processes whole rows, so that it alone computes the gradient of their weights
    for first in range(0, WIDTH, BLOCK_COLUMNS):
        column = first + tl.arange(0, BLOCK_COLUMNS)[None, :]
        inside = there & (column < WIDTH)
        narrow, twice = row * WIDTH + column, row * (2 * WIDTH) + column
        outward = _load(gradient + narrow, inside)
        gate, up = _load(both + twice, inside), _load(both + twice + WIDTH, inside)
        open = 1 / (1 + tl.exp(-gate))
        silu = gate * open
        to_weight += tl.sum(outward * silu * up, 1, keep_dims=True)
        to_silu, to_up = outward * weight * up, outward * weight * silu
        to_gate = to_silu * (open + silu * (1 - open))
        kind = made.dtype.element_ty
        tl.store(made + narrow, (silu * up * weight).to(kind), mask=inside)
        tl.store(to_both + twice, to_gate.to(kind), mask=inside)
        tl.store(to_both + twice + WIDTH, to_up.to(kind), mask=inside)
    tl.store(to_weights + choice, to_weight, mask=there)
