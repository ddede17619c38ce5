"""Triton kernels that make the maps of residual streams from their projection, and functions to launch them.

A program is one warp that holds the maps of a few tokens in registers. The backward pass recomputes Sinkhorn
iterations: it keeps the vectors of every `SPAN`-th, also in registers, and makes those between from these.

Projections and maps are [tokens, streams, columns], where columns are the factors of reading, of writing, and
of each target in the mix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.kernels.gpu import on, padded
from blocks.primitives.reference import EPS
from blocks.wiring.residual.streams.operations import ITERATIONS
from blocks.wiring.residual.streams.tiles import map_tokens

if TYPE_CHECKING:
    from blocks.wiring.residual.streams.config import Constraint

SPAN = 5
"""The number of Sinkhorn iterations between vectors that are kept."""


def maps_forward(
    made: Tensor, norm: Tensor, scale: Tensor, base: Tensor, size: int, kind: Constraint
) -> Tensor:
    """Return maps from the projection `made` of streams that are not yet divided by their root mean square.

    norm: norms [tokens, 1 or streams] of `size` elements each; scale: [columns]; base: [streams, columns].
    """
    maps = torch.empty_like(made)
    if len(made):
        with on(made.device):
            _maps[(triton.cdiv(len(made), map_tokens(len(base))),)](
                made,
                norm,
                scale.contiguous(),
                base.contiguous(),
                maps,
                len(made),
                1 / size,
                EPS,
                **_constants(norm, base, kind),
            )
    return maps


def maps_backward(
    gradient: Tensor,
    of_read: Tensor | None,
    made: Tensor,
    norm: Tensor,
    scale: Tensor,
    base: Tensor,
    size: int,
    kind: Constraint,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradient of the projection, a factor of the streams, and the gradients of scale and base.

    `of_read` [tokens, streams], if given, is added to the gradient of the factors of reading.

    The gradient of streams is that through the projection plus, since norms depend on them, the streams times
    their factor [tokens, 1 or streams].
    """
    programs = triton.cdiv(len(made), map_tokens(len(base)))
    to_made, by_norm = torch.empty_like(made), torch.empty_like(norm)
    shares = torch.empty((programs, 2, *base.shape), dtype=torch.float32, device=made.device)
    if programs:
        with on(made.device):
            _maps_backward[(programs,)](
                gradient.contiguous(),
                made if of_read is None else of_read,
                made,
                norm,
                scale.contiguous(),
                base.contiguous(),
                to_made,
                by_norm,
                shares,
                len(made),
                1 / size,
                EPS,
                READ=of_read is not None,
                **_constants(norm, base, kind),
            )
    to_base, to_scale = shares.sum(0)
    return to_made, by_norm, to_scale.sum(0).to(scale.dtype), to_base.to(base.dtype)


def _constants(norm: Tensor, base: Tensor, kind: Constraint) -> dict[str, int]:
    streams, columns = base.shape
    return {
        "NORMS": norm.shape[-1],
        "KIND": _KINDS[kind],
        "STREAMS": streams,
        "N": padded(streams),
        "COLUMNS": columns,
        "TARGETS": padded(columns - 2),
        "ITERATIONS": ITERATIONS,
        "SPAN": SPAN,
        "KEPT": padded(triton.cdiv(ITERATIONS, SPAN)),
        "TOKENS": map_tokens(streams),
        "num_warps": 1,
    }


_KINDS: dict[Constraint, int] = {"none": 0, "diagonal": 1, "doubly_stochastic": 2}
_FREE, _DOUBLY_STOCHASTIC = tl.constexpr(0), tl.constexpr(2)


@triton.jit
def _maps(
    made,
    norm,
    scale,
    base,
    maps,
    tokens,
    share,
    eps,
    NORMS: tl.constexpr,
    KIND: tl.constexpr,
    STREAMS: tl.constexpr,
    N: tl.constexpr,
    COLUMNS: tl.constexpr,
    TARGETS: tl.constexpr,
    ITERATIONS: tl.constexpr,
    SPAN: tl.constexpr,
    KEPT: tl.constexpr,
    TOKENS: tl.constexpr,
):
    # tokens last: sums over streams take few threads
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)[None, None, :]
    inverse = _inverse(norm, token, tokens, share, eps, NORMS, STREAMS, N)
    given = (made, inverse, scale, base, maps, token, tokens)
    _make(*given, 0, 2, KIND, STREAMS, N, COLUMNS, ITERATIONS, TOKENS)
    _make(*given, 2, TARGETS, KIND, STREAMS, N, COLUMNS, ITERATIONS, TOKENS)


@triton.jit
def _make(
    made,
    inverse,
    scale,
    base,
    maps,
    token,
    tokens,
    FIRST: tl.constexpr,
    SIZE: tl.constexpr,
    KIND: tl.constexpr,
    STREAMS: tl.constexpr,
    N: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITERATIONS: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Write `SIZE` columns of maps from the column `FIRST` on."""
    at, there, stream, column = _places(token, tokens, FIRST, SIZE, STREAMS, N, COLUMNS)
    x, s, b = _inputs(made, inverse, scale, base, at, there, stream, column, STREAMS, COLUMNS)
    if KIND == _FREE:
        result = b + s * _tanh(x)
    elif KIND == _DOUBLY_STOCHASTIC and FIRST == 2:
        powers = _powers(b + s * x, there, stream, column - 2)
        columns = tl.full([1, SIZE, TOKENS], 1.0, tl.float32)
        for _ in range(ITERATIONS - 1):
            columns = _columns(powers, _rows(powers, columns))
        rows = _rows(powers, columns)
        result = powers * rows * _columns(powers, rows)
    else:
        result = _sigmoid(b + s * x) * tl.where(column == 1, 2.0, 1.0)
    tl.store(maps + at, result.to(maps.dtype.element_ty), mask=there)


@triton.jit
def _maps_backward(
    gradient,
    of_read,
    made,
    norm,
    scale,
    base,
    to_made,
    by_norm,
    shares,
    tokens,
    share,
    eps,
    READ: tl.constexpr,
    NORMS: tl.constexpr,
    KIND: tl.constexpr,
    STREAMS: tl.constexpr,
    N: tl.constexpr,
    COLUMNS: tl.constexpr,
    TARGETS: tl.constexpr,
    ITERATIONS: tl.constexpr,
    SPAN: tl.constexpr,
    KEPT: tl.constexpr,
    TOKENS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)[None, None, :]
    inverse = _inverse(norm, token, tokens, share, eps, NORMS, STREAMS, N)
    shares += tl.program_id(0).to(tl.int64) * 2 * STREAMS * COLUMNS
    given = (gradient, of_read, made, inverse, scale, base, to_made, shares, token, tokens)
    along = _make_backward(*given, 0, 2, READ, KIND, STREAMS, N, COLUMNS, ITERATIONS, SPAN, KEPT, TOKENS)
    along += _make_backward(
        *given, 2, TARGETS, False, KIND, STREAMS, N, COLUMNS, ITERATIONS, SPAN, KEPT, TOKENS
    )
    stream = tl.arange(0, N)[:, None, None]
    if NORMS == 1:
        along = tl.sum(along, 0, keep_dims=True)
        place, there = by_norm + token, token < tokens
    else:
        place, there = by_norm + token * STREAMS + stream, (token < tokens) & (stream < STREAMS)
    tl.store(place, (-along * inverse * inverse * share).to(by_norm.dtype.element_ty), mask=there)


@triton.jit
def _make_backward(
    gradient,
    of_read,
    made,
    inverse,
    scale,
    base,
    to_made,
    shares,
    token,
    tokens,
    FIRST: tl.constexpr,
    SIZE: tl.constexpr,
    READ: tl.constexpr,
    KIND: tl.constexpr,
    STREAMS: tl.constexpr,
    N: tl.constexpr,
    COLUMNS: tl.constexpr,
    ITERATIONS: tl.constexpr,
    SPAN: tl.constexpr,
    KEPT: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Write gradients of `SIZE` columns; return the sums of the normalized projection times its gradient."""
    at, there, stream, column = _places(token, tokens, FIRST, SIZE, STREAMS, N, COLUMNS)
    x, s, b = _inputs(made, inverse, scale, base, at, there, stream, column, STREAMS, COLUMNS)
    given = tl.load(gradient + at, mask=there, other=0.0).to(tl.float32)
    if READ:
        here = (token < tokens) & (stream < STREAMS)
        more = tl.load(of_read + token * STREAMS + stream, mask=here, other=0.0).to(tl.float32)
        given += tl.where(column == 0, more, 0.0)
    if KIND == _FREE:
        y = _tanh(x)
        to_x = given * s * (1 - y * y)
        to_scale = given * y
    else:
        if KIND == _DOUBLY_STOCHASTIC and FIRST == 2:
            powers = _powers(b + s * x, there, stream, column - 2)
            given = _sinkhorn_backward(powers, given, SIZE, ITERATIONS, SPAN, KEPT, TOKENS)
        else:
            y = _sigmoid(b + s * x)
            given = given * tl.where(column == 1, 2.0, 1.0) * y * (1 - y)
        to_x = given * s
        to_scale = given * x
    tl.store(to_made + at, (to_x * inverse).to(to_made.dtype.element_ty), mask=there)
    there = (stream < STREAMS) & (column < COLUMNS)
    place = shares + stream * COLUMNS + column
    tl.store(place, tl.sum(given, 2, keep_dims=True), mask=there)
    tl.store(place + STREAMS * COLUMNS, tl.sum(to_scale, 2, keep_dims=True), mask=there)
    return tl.sum(to_x * x, 1, keep_dims=True)


@triton.jit
def _sinkhorn_backward(
    powers,
    given,
    SIZE: tl.constexpr,
    ITERATIONS: tl.constexpr,
    SPAN: tl.constexpr,
    KEPT: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Return the gradient of the logarithm of powers [N, SIZE, TOKENS]."""
    which = tl.arange(0, KEPT)[:, None, None] * SPAN
    kept = tl.full([KEPT, SIZE, TOKENS], 1.0, tl.float32)
    columns = tl.full([1, SIZE, TOKENS], 1.0, tl.float32)
    for step in range(ITERATIONS):
        kept = tl.where(which == step, columns, kept)
        columns = _columns(powers, _rows(powers, columns))
    to_powers = tl.full([SIZE, SIZE, TOKENS], 0.0, tl.float32)
    to_rows = tl.full([SIZE, 1, TOKENS], 0.0, tl.float32)
    to_columns = tl.full([1, SIZE, TOKENS], 0.0, tl.float32)
    for back in range(ITERATIONS):
        step = ITERATIONS - 1 - back
        before = tl.sum(tl.where(which == step // SPAN * SPAN, kept, 0.0), 0, keep_dims=True)
        for _ in range(step % SPAN):
            before = _columns(powers, _rows(powers, before))
        rows = _rows(powers, before)
        columns = _columns(powers, rows)
        if back == 0:
            # only the last factors are in the result
            to_powers = given * rows * columns
            to_rows = tl.sum(given * powers * columns, 1, keep_dims=True)
            to_columns = tl.sum(given * powers * rows, 0, keep_dims=True)
        to_sum = -to_columns * columns * columns
        to_powers += rows * to_sum
        to_sum = -(to_rows + tl.sum(powers * to_sum, 1, keep_dims=True)) * rows * rows
        to_powers += to_sum * before
        to_columns = tl.sum(powers * to_sum, 0, keep_dims=True)
        to_rows = tl.zeros_like(to_rows)
    return to_powers * powers


@triton.jit
def _places(
    token,
    tokens,
    FIRST: tl.constexpr,
    SIZE: tl.constexpr,
    STREAMS: tl.constexpr,
    N: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Return where elements of maps are, whether there are any, their streams and their columns."""
    stream = tl.arange(0, N)[:, None, None]
    column = FIRST + tl.arange(0, SIZE)[None, :, None]
    there = (token < tokens) & (stream < STREAMS) & (column < COLUMNS)
    return (token * STREAMS + stream) * COLUMNS + column, there, stream, column


@triton.jit
def _inputs(
    made, inverse, scale, base, at, there, stream, column, STREAMS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Return the normalized projection, scales and static parts of elements."""
    x = tl.load(made + at, mask=there, other=0.0).to(tl.float32) * inverse
    s = tl.load(scale + column, mask=column < COLUMNS, other=0.0).to(tl.float32)
    static = (stream < STREAMS) & (column < COLUMNS)
    return x, s, tl.load(base + stream * COLUMNS + column, mask=static, other=0.0).to(tl.float32)


@triton.jit
def _inverse(norm, token, tokens, share, eps, NORMS: tl.constexpr, STREAMS: tl.constexpr, N: tl.constexpr):
    """Return the inverse of the root mean square of each stream, or of all together."""
    if NORMS == 1:
        size = tl.load(norm + token, mask=token < tokens, other=0.0)
    else:
        stream = tl.arange(0, N)[:, None, None]
        there = (token < tokens) & (stream < STREAMS)
        size = tl.load(norm + token * STREAMS + stream, mask=there, other=0.0)
    size = size.to(tl.float32)
    return tl.rsqrt(size * size * share + eps)


@triton.jit
def _sigmoid(x):
    smaller = tl.exp(-tl.abs(x))
    return tl.where(x < 0, smaller, 1.0) / (1 + smaller)


@triton.jit
def _tanh(x):
    return 2 * _sigmoid(2 * x) - 1


@triton.jit
def _powers(logits, there, stream, target):
    """Return exp(logits), whose rows may have any factor; where there is none, a separate identity."""
    logits = tl.where(there, logits, -1e30)
    top = tl.max(logits, 1, keep_dims=True)
    return tl.where(there, tl.exp(logits - top), tl.where(stream == target, 1.0, 0.0))


@triton.jit
def _rows(powers, columns):
    return 1 / tl.sum(powers * columns, 1, keep_dims=True)


@triton.jit
def _columns(powers, rows):
    return 1 / tl.sum(powers * rows, 0, keep_dims=True)
