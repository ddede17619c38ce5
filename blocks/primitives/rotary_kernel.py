"""Triton kernels that normalize and rotate heads in one pass, and the functions that launch them.

A row is one head of one token. It is read once from a strided tensor, such as a joined projection, and
written once; the backward pass recomputes its scale. Each program writes a partial sum of the gain's
gradient. These are summed afterwards, so that results do not depend on the order of programs.

Tensors are [batch, sequence, heads, head_dim]; a table is complex [sequence, 1, head_dim / 2].
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.kernels.gpu import architecture, on, padded
from blocks.kernels.tensors import in_heads
from blocks.primitives.reference import EPS
from blocks.primitives.tiles import PROGRAMS, Shape, tile


def rotate_forward(x: Tensor, table: Tensor, gain: Tensor | None) -> Tensor:
    """Return the heads of x, normalized with a gain [head_dim] if it is given, then rotated by the table."""
    return _turned(x, table, gain, None)[0]


def rotate_backward(
    gradient: Tensor, table: Tensor, x: Tensor | None, gain: Tensor | None, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of x and of the gain, or None without a gain; x is then not read.

    The gradient of x is written to `out` if given, whose heads of a token must be contiguous.
    """
    if gain is None:
        return _turned(gradient, table, None, None, back=True, out=out)[0], None
    assert x is not None
    return _turned(x, table, gain, gradient, out=out)


def rotate_back(x: Tensor, turn: Tensor) -> Tensor:
    """Return x rotated back by one rotation for all tokens: [head_dim], cosine and sine of each pair."""
    table = torch.view_as_complex(turn.view(1, 1, -1, 2))
    return _turned(x, table, None, None, back=True)[0]


def _turned(
    x: Tensor,
    table: Tensor,
    gain: Tensor | None,
    gradient: Tensor | None,
    back: bool = False,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Launch a kernel on x: forward, inverse (`back`), or backward if a gradient is given."""
    length, heads, head_dim = table.shape[0], *x.shape[2:]
    given, turns = in_heads(x), torch.view_as_real(table)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    made = in_heads(out)
    assert made.data_ptr() == out.data_ptr()
    backward = gradient is not None
    sizes = tile(Shape("rotate_backward" if backward else "rotate", architecture(x.device), head_dim))
    rows = given.shape[0] * heads
    programs = triton.cdiv(rows, sizes.rows)
    weight = turns if gain is None else gain
    constants = {
        "HEADS": heads,
        "DIM": head_dim,
        "ROWS": sizes.rows,
        "BLOCK": padded(head_dim),
        "num_warps": sizes.warps,
    }
    if gradient is None:
        if rows:
            with on(x.device):
                _rotate[(programs,)](
                    given,
                    turns,
                    weight,
                    made,
                    given.stride(0),
                    made.stride(0),
                    rows,
                    length,
                    EPS,
                    NORM=gain is not None,
                    BACK=back,
                    **constants,
                )
        return out, None
    programs = min(PROGRAMS, programs)
    shares = torch.empty((programs, head_dim), dtype=torch.float32, device=x.device)
    given_back = in_heads(gradient)
    if rows:
        strides = (given_back.stride(0), given.stride(0), made.stride(0))
        with on(x.device):
            _rotate_backward[(programs,)](
                given_back,
                given,
                turns,
                weight,
                made,
                shares,
                *strides,
                rows,
                length,
                programs,
                EPS,
                **constants,
            )
    return out, shares.sum(0).to(weight.dtype)


@triton.jit
def _places(row, rows, length, HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr):
    """Return tokens of rows, offsets within a token and within the table, and the mask."""
    element = tl.arange(0, BLOCK)[None, :]
    token = row // HEADS
    there = (row < rows) & (element < DIM)
    # a 64-bit remainder is a function call; there are fewer than 2^31 tokens
    return token, (row % HEADS) * DIM + element, (token.to(tl.int32) % length) * DIM + element, there


@triton.jit
def _halves(x, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Return the first and the second elements of the pairs."""
    return tl.split(tl.reshape(x, [ROWS, BLOCK // 2, 2]))


@triton.jit
def _whole(first, second, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    return tl.reshape(tl.join(first, second), [ROWS, BLOCK])


@triton.jit
def _rotate(
    x,
    turns,
    gain,
    out,
    stride,
    out_stride,
    rows,
    length,
    eps,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    NORM: tl.constexpr,
    BACK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    token, at, turn, there = _places(row, rows, length, HEADS, DIM, BLOCK)
    given = tl.load(x + token * stride + at, mask=there, other=0.0).to(tl.float32)
    if NORM:
        element = tl.arange(0, BLOCK)[None, :]
        scale = tl.rsqrt(tl.sum(given * given, 1, keep_dims=True) / DIM + eps)
        given *= scale * tl.load(gain + element, mask=element < DIM, other=0.0).to(tl.float32)
    first, second = _halves(given, ROWS, BLOCK)
    cos, sin = _halves(tl.load(turns + turn, mask=there, other=0.0), ROWS, BLOCK)
    if BACK:
        sin = -sin
    made = _whole(first * cos - second * sin, first * sin + second * cos, ROWS, BLOCK)
    tl.store(out + token * out_stride + at, made.to(out.dtype.element_ty), mask=there)


@triton.jit
def _rotate_backward(
    gradient,
    x,
    turns,
    gain,
    to_x,
    shares,
    gradient_stride,
    stride,
    to_x_stride,
    rows,
    length,
    programs,
    eps,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    element = tl.arange(0, BLOCK)[None, :]
    weight = tl.load(gain + element, mask=element < DIM, other=0.0).to(tl.float32)
    share = tl.full([ROWS, BLOCK], 0.0, tl.float32)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    for _ in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), programs):
        token, at, turn, there = _places(row, rows, length, HEADS, DIM, BLOCK)
        dy = tl.load(gradient + token * gradient_stride + at, mask=there, other=0.0).to(tl.float32)
        normed = tl.load(x + token * stride + at, mask=there, other=0.0).to(tl.float32)
        first, second = _halves(dy, ROWS, BLOCK)
        cos, sin = _halves(tl.load(turns + turn, mask=there, other=0.0), ROWS, BLOCK)
        dy = _whole(first * cos + second * sin, second * cos - first * sin, ROWS, BLOCK)
        scale = tl.rsqrt(tl.sum(normed * normed, 1, keep_dims=True) / DIM + eps)
        normed *= scale
        share += dy * normed
        dy *= weight
        made = scale * (dy - normed * (tl.sum(dy * normed, 1, keep_dims=True) / DIM))
        tl.store(to_x + token * to_x_stride + at, made.to(to_x.dtype.element_ty), mask=there)
        row += programs * ROWS
    at = tl.arange(0, BLOCK)
    tl.store(shares + tl.program_id(0) * DIM + at, tl.sum(share, 0), mask=at < DIM)
