"""A Triton kernel for the gradient of streams that are mapped and read, and the function that launches it.

A program processes blocks of several tokens, so that the rows of the projection, which it multiplies in fp32
registers, are read from the cache once for all of them. The gradient is written once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.kernels.gpu import on, padded
from blocks.wiring.residual.streams.tiles import gradient_tile


def map_and_read_backward(
    gradient: Tensor, h: Tensor, maps: Tensor, to_made: Tensor, by_norm: Tensor, projection: Tensor
) -> Tensor:
    """Return the gradient of streams h [batch, sequence, streams, width], all tensors dense.

    It is that of the read value, `gradient`, times the first column of maps; the streams times `by_norm`
    [tokens, 1 or streams]; and the product of `to_made` [tokens, streams, columns] with the projection,
    which is [columns, width] where it maps each stream, else [streams * columns, streams * width].
    """
    streams, width = h.shape[-2:]
    tokens, columns = len(to_made), to_made.shape[-1]
    each = projection.shape == (columns, width)
    made = torch.empty_like(h)
    sizes = gradient_tile(streams, width)
    if h.numel():
        grid = (triton.cdiv(tokens, sizes.rows), triton.cdiv(width, sizes.columns))
        with on(h.device):
            _map_and_read_backward[grid](
                gradient,
                h,
                maps,
                to_made,
                by_norm,
                projection,
                made,
                tokens,
                width,
                columns if each else streams * columns,
                EACH=each,
                NORMS=by_norm.shape[-1],
                COLUMNS=columns,
                STREAMS=streams,
                N=padded(streams),
                ROWS=sizes.rows,
                BLOCK=sizes.columns,
                num_warps=sizes.warps,
            )
    return made


@triton.jit
def _map_and_read_backward(
    gradient,
    h,
    maps,
    to_made,
    by_norm,
    projection,
    made,
    tokens,
    width,
    count,
    EACH: tl.constexpr,
    NORMS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STREAMS: tl.constexpr,
    N: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    stream = tl.arange(0, N)[None, :, None].to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    here = (row < tokens) & (stream < STREAMS)
    inside = (stream < STREAMS) & (column < width)
    there = here & (column < width)
    at = (row * STREAMS + stream) * width + column
    outside = (row < tokens) & (column < width)
    given = tl.load(gradient + row * width + column, mask=outside, other=0.0).to(tl.float32)
    a = tl.load(maps + (row * STREAMS + stream) * COLUMNS, mask=here, other=0.0).to(tl.float32)
    factor = tl.load(by_norm + row * NORMS + stream % NORMS, mask=here, other=0.0).to(tl.float32)
    total = tl.load(h + at, mask=there, other=0.0).to(tl.float32) * factor + given * a
    for number in range(count):
        if EACH:
            p = tl.load(projection + number * width + column, mask=column < width, other=0.0)
            of_row = tl.load(to_made + (row * STREAMS + stream) * COLUMNS + number, mask=here, other=0.0)
        else:
            p = tl.load(projection + (number * STREAMS + stream) * width + column, mask=inside, other=0.0)
            of_row = tl.load(to_made + row * (STREAMS * COLUMNS) + number, mask=row < tokens, other=0.0)
        total += p.to(tl.float32) * of_row.to(tl.float32)
    tl.store(made + at, total.to(made.dtype.element_ty), mask=there)
