"""Triton kernels that read and write residual streams, and the functions that launch them.

A program processes rows of elements of all streams, block by block, in fp32: each stream is read once and
written once. Sums over a row, the gradients of its factors, stay in registers. A row is a token where the
factors are the token's own maps. Static factors are the same for all tokens, so there a row is any part of
each stream; its sums are partial ones, which are summed afterwards in a fixed order.

Streams h are [batch, sequence, streams, width]; with static factors they are the outermost dimension in
memory. x and y are [batch, sequence, width].
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.kernels.gpu import architecture, on, padded
from blocks.wiring.residual.streams.tiles import PROGRAMS, Shape, Tile, tile


class _Rows(NamedTuple):
    """Rows of elements: their number and length, and the elements of a stream.

    `row_stride` and `stream_stride` are those of the streams.
    """

    rows: int
    width: int
    total: int
    row_stride: int
    stream_stride: int


def read(h: Tensor, factors: Tensor) -> Tensor:
    """Return the sum of the streams weighted by the first column of maps, or by static factors [streams]."""
    static = factors.ndim == 1
    h, factors = _dense(h, static), factors.contiguous()
    rows, sizes = _rows(h, static, False)
    x = torch.empty_like(h.select(-2, 0), memory_format=torch.contiguous_format)
    if x.numel():
        with on(h.device):
            _read[(triton.cdiv(rows.rows, sizes.rows),)](
                _planes(h, static),
                factors,
                x,
                *rows,
                *_strides(factors),
                **_constants(h, sizes),
            )
    return x


def read_backward(gradient: Tensor, h: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of h and of maps or the static factors."""
    static = factors.ndim == 1
    h, factors, gradient = _dense(h, static), factors.contiguous(), gradient.contiguous()
    rows, sizes = _rows(h, static, True)
    to_h = torch.empty_like(h)
    to_factors = _sums(rows, factors, 1)
    if h.numel():
        with on(h.device):
            _read_backward[(triton.cdiv(rows.rows, sizes.rows),)](
                gradient,
                _planes(h, static),
                factors,
                _planes(to_h, static),
                to_factors,
                *rows,
                *_strides(factors),
                TO_H=True,
                COLUMNS=to_factors.shape[-1],
                **_constants(h, sizes),
            )
    return to_h, to_factors.sum(0)[:, 0].to(factors.dtype) if static else to_factors


def read_products(gradient: Tensor, h: Tensor) -> Tensor:
    """Return the sums of each token's streams times the gradient of what is read [tokens, streams]."""
    h, gradient = h.contiguous(), gradient.contiguous()
    rows, sizes = _rows(h, False, True)
    sizes = sizes._replace(warps=8)  # with 4, one register of a thread spills
    made = torch.empty((rows.rows, h.shape[-2]), dtype=h.dtype, device=h.device)
    if h.numel():
        with on(h.device):
            _read_backward[(triton.cdiv(rows.rows, sizes.rows),)](
                gradient, h, made, made, made, *rows, 0, 0, TO_H=False, COLUMNS=1, **_constants(h, sizes)
            )
    return made


def write(h: Tensor, y: Tensor, factors: Tensor, mix: Tensor | None, diagonal: bool) -> Tensor:
    """Return the mixed streams plus y times the factors of writing.

    factors: maps, which have the mix, or the static factors [streams] beside a static `mix`, [streams,
    streams] from column to row, or [streams] if `diagonal`.
    """
    static = mix is not None
    h, y, factors = _dense(h, static), y.contiguous(), factors.contiguous()
    rows, sizes = _rows(h, static, False)
    made = torch.empty_like(h)
    if h.numel():
        with on(h.device):
            _write[(triton.cdiv(rows.rows, sizes.rows),)](
                _planes(h, static),
                y,
                *_writing(factors, mix),
                _planes(made, static),
                *rows,
                *_mixing(factors, mix),
                DIAGONAL=diagonal,
                **_constants(h, sizes),
            )
    return made


def write_backward(
    gradient: Tensor, h: Tensor, y: Tensor, factors: Tensor, mix: Tensor | None, diagonal: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return the gradients of h, y, maps and None, or of h, y, the static factors and the static mix."""
    static = mix is not None
    h, gradient = _dense(h, static), _dense(gradient, static)
    y, factors = y.contiguous(), factors.contiguous()
    rows, sizes = _rows(h, static, True)
    to_h, to_y = torch.empty_like(h), torch.empty_like(y)
    sums = _sums(rows, factors, 3 if diagonal else 2 + h.shape[-2])
    if h.numel():
        with on(h.device):
            _write_backward[(triton.cdiv(rows.rows, sizes.rows),)](
                _planes(gradient, static),
                _planes(h, static),
                y,
                *_writing(factors, mix),
                _planes(to_h, static),
                to_y,
                sums,
                *rows,
                *_mixing(factors, mix),
                COLUMNS=sums.shape[-1],
                PADDED=padded(sums.shape[-1]),
                DIAGONAL=diagonal,
                **_constants(h, sizes),
            )
    if mix is None:
        return to_h, to_y, sums, None
    total = sums.sum(0)
    to_mix = total[:, 2] if diagonal else total[:, 2:].T
    return to_h, to_y, total[:, 1].to(factors.dtype), to_mix.to(mix.dtype)


def _dense(h: Tensor, static: bool) -> Tensor:
    """Return streams without gaps, outermost in memory with static factors; copied only if necessary."""
    return h.movedim(-2, 0).contiguous().movedim(0, -2) if static else h.contiguous()


def _planes(h: Tensor, static: bool) -> Tensor:
    """Return dense streams as one contiguous tensor."""
    return h.movedim(-2, 0) if static else h


def _rows(h: Tensor, static: bool, backward: bool) -> tuple[_Rows, Tile]:
    """Return the rows that kernels process and the tile; backward, few rows have static factors."""
    streams, width = h.shape[-2:]
    total = h.numel() // streams
    sizes = tile(Shape(architecture(h.device), streams, total if static else width))
    if not static:
        return _Rows(total // width, width, total, streams * width, width), sizes
    blocks = max(1, triton.cdiv(total, PROGRAMS * sizes.columns)) if backward else 1
    part = blocks * sizes.columns
    return _Rows(triton.cdiv(total, part), part, total, part, total), sizes._replace(rows=1)


def _sums(rows: _Rows, factors: Tensor, columns: int) -> Tensor:
    """Return a tensor for the sums of rows: the gradient of maps, or partial sums for static factors."""
    if factors.ndim > 1:
        return torch.empty_like(factors)
    return torch.empty((rows.rows, len(factors), columns), dtype=torch.float32, device=factors.device)


def _strides(factors: Tensor) -> tuple[int, int]:
    """Return the strides of rows and streams in factors."""
    return (0, 1) if factors.ndim == 1 else (factors.stride(-3), factors.stride(-2))


def _writing(factors: Tensor, mix: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the factors of writing and the mix."""
    return (factors, mix.contiguous()) if mix is not None else (factors[..., 1:], factors[..., 2:])


def _mixing(factors: Tensor, mix: Tensor | None) -> tuple[int, int, int, int]:
    """Return the strides of rows and streams in factors, and of streams and targets in the mix."""
    row, stream = _strides(factors)
    if mix is None:
        return row, stream, stream, 1
    return row, stream, 1, mix.shape[-1]


def _constants(h: Tensor, sizes: Tile) -> dict[str, int]:
    streams = h.shape[-2]
    return {
        "STREAMS": streams,
        "N": padded(streams),
        "ROWS": sizes.rows,
        "BLOCK": sizes.columns,
        "num_warps": sizes.warps,
    }


@triton.jit
def _read(
    h,
    factors,
    x,
    rows,
    width,
    total,
    row_stride,
    stream_stride,
    factor_row,
    factor_stream,
    STREAMS: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    stream = tl.arange(0, N)[None, :, None].to(tl.int64)
    here = (row < rows) & (stream < STREAMS)
    a = tl.load(factors + row * factor_row + stream * factor_stream, mask=here, other=0.0).to(tl.float32)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)[None, None, :]
        there = (row < rows) & (column < width) & (row * width + column < total)
        place = h + row * row_stride + stream * stream_stride + column
        streams = tl.load(place, mask=there & (stream < STREAMS), other=0.0).to(tl.float32)
        made = tl.sum(streams * a, 1, keep_dims=True)
        tl.store(x + row * width + column, made.to(x.dtype.element_ty), mask=there)


@triton.jit
def _read_backward(
    gradient,
    h,
    factors,
    to_h,
    to_factors,
    rows,
    width,
    total,
    row_stride,
    stream_stride,
    factor_row,
    factor_stream,
    TO_H: tl.constexpr,
    COLUMNS: tl.constexpr,
    STREAMS: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    stream = tl.arange(0, N)[None, :, None].to(tl.int64)
    here = (row < rows) & (stream < STREAMS)
    if TO_H:
        a = tl.load(factors + row * factor_row + stream * factor_stream, mask=here, other=0.0).to(tl.float32)
    total_a = tl.full([ROWS, N, 1], 0.0, tl.float32)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)[None, None, :]
        there = (row < rows) & (column < width) & (row * width + column < total)
        given = tl.load(gradient + row * width + column, mask=there, other=0.0).to(tl.float32)
        at = row * row_stride + stream * stream_stride + column
        there = there & (stream < STREAMS)
        streams = tl.load(h + at, mask=there, other=0.0).to(tl.float32)
        total_a += tl.sum(streams * given, 2, keep_dims=True)
        if TO_H:
            tl.store(to_h + at, (given * a).to(to_h.dtype.element_ty), mask=there)
    kind = to_factors.dtype.element_ty
    place = to_factors + (row * STREAMS + stream) * COLUMNS
    tl.store(place, total_a.to(kind), mask=here)
    for other in tl.static_range(1, COLUMNS):
        tl.store(place + other, tl.full([ROWS, N, 1], 0.0, kind), mask=here)


@triton.jit
def _write(
    h,
    y,
    factors,
    mix,
    made,
    rows,
    width,
    total,
    row_stride,
    stream_stride,
    factor_row,
    factor_stream,
    mix_stream,
    mix_target,
    DIAGONAL: tl.constexpr,
    STREAMS: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    stream = tl.arange(0, N)[None, :, None].to(tl.int64)
    here = (row < rows) & (stream < STREAMS)
    factors += row * factor_row
    mix += row * factor_row + stream * mix_stream
    kind = made.dtype.element_ty
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)[None, None, :]
        outside = (row < rows) & (column < width) & (row * width + column < total)
        update = tl.load(y + row * width + column, mask=outside, other=0.0).to(tl.float32)
        at = row * row_stride + column
        there = outside & (stream < STREAMS)
        streams = tl.load(h + at + stream * stream_stride, mask=there, other=0.0).to(tl.float32)
        if DIAGONAL:
            b = tl.load(factors + stream * factor_stream, mask=here, other=0.0).to(tl.float32)
            share = tl.load(mix, mask=here, other=0.0).to(tl.float32)
            mixed = streams * share + update * b
            tl.store(made + at + stream * stream_stride, mixed.to(kind), mask=there)
        else:
            for target in tl.static_range(STREAMS):
                b = tl.load(factors + target * factor_stream, mask=row < rows, other=0.0).to(tl.float32)
                share = tl.load(mix + target * mix_target, mask=here, other=0.0).to(tl.float32)
                mixed = tl.sum(streams * share, 1, keep_dims=True) + update * b
                tl.store(made + at + target * stream_stride, mixed.to(kind), mask=outside)


@triton.jit
def _write_backward(
    gradient,
    h,
    y,
    factors,
    mix,
    to_h,
    to_y,
    sums,
    rows,
    width,
    total,
    row_stride,
    stream_stride,
    factor_row,
    factor_stream,
    mix_stream,
    mix_target,
    COLUMNS: tl.constexpr,
    PADDED: tl.constexpr,
    DIAGONAL: tl.constexpr,
    STREAMS: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    stream = tl.arange(0, N)[None, :, None].to(tl.int64)
    here = (row < rows) & (stream < STREAMS)
    factors += row * factor_row
    mix += row * factor_row + stream * mix_stream
    element = tl.arange(0, PADDED)[None, None, :]
    # the gradients of all factors of a row; those of reading are another operation's
    own = tl.full([ROWS, N, PADDED], 0.0, tl.float32)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK)[None, None, :]
        outside = (row < rows) & (column < width) & (row * width + column < total)
        update = tl.load(y + row * width + column, mask=outside, other=0.0).to(tl.float32)
        at = row * row_stride + column
        there = outside & (stream < STREAMS)
        streams = tl.load(h + at + stream * stream_stride, mask=there, other=0.0).to(tl.float32)
        if DIAGONAL:
            b = tl.load(factors + stream * factor_stream, mask=here, other=0.0).to(tl.float32)
            share = tl.load(mix, mask=here, other=0.0).to(tl.float32)
            given = tl.load(gradient + at + stream * stream_stride, mask=there, other=0.0).to(tl.float32)
            of_h, of_y = given * share, tl.sum(given * b, 1, keep_dims=True)
            own += tl.where(element == 1, tl.sum(given * update, 2, keep_dims=True), 0.0)
            own += tl.where(element == 2, tl.sum(given * streams, 2, keep_dims=True), 0.0)
        else:
            of_h = tl.full([ROWS, N, BLOCK], 0.0, tl.float32)
            of_y = tl.full([ROWS, 1, BLOCK], 0.0, tl.float32)
            for target in tl.static_range(STREAMS):
                b = tl.load(factors + target * factor_stream, mask=row < rows, other=0.0).to(tl.float32)
                share = tl.load(mix + target * mix_target, mask=here, other=0.0).to(tl.float32)
                given = tl.load(gradient + at + target * stream_stride, mask=outside, other=0.0)
                given = given.to(tl.float32)
                of_h += given * share
                of_y += given * b
                to_b = tl.sum(given * update, 2, keep_dims=True)
                own += tl.where((element == 1) & (stream == target), to_b, 0.0)
                own += tl.where(element == 2 + target, tl.sum(given * streams, 2, keep_dims=True), 0.0)
        tl.store(to_h + at + stream * stream_stride, of_h.to(to_h.dtype.element_ty), mask=there)
        tl.store(to_y + row * width + column, of_y.to(to_y.dtype.element_ty), mask=outside)
    place = sums + (row * STREAMS + stream) * COLUMNS + element
    tl.store(place, own.to(sums.dtype.element_ty), mask=here & (element < COLUMNS))
