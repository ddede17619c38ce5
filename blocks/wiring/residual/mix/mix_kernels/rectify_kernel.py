"""Triton kernels for sums weighted by b + ReLU(w . RMSNorm(value)), and the functions that launch them.

A program processes whole values of a tile of tokens in fp32, as blocks [tokens, heads, width / heads].
Forward it reads each value once. Backward, where no value depends on another, it has one value and iterates
over several tiles, and writes its partial sums of the gradients of b and w to separate rows. The rows are
summed afterwards, so that results do not depend on the order of programs. Programs with the same tokens are
neighbors, so that the gradient of the sum, which each of them reads, can come from the cache.

Values are dense: the start and the partial [batch, sequence, width], slots [slots, batch, sequence, width].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.primitives.reference import EPS
from blocks.wiring.residual.mix.mix_kernels.tile_kernel import Launch, load, place, scored, store
from blocks.wiring.residual.mix.mix_kernels.tiles import PROGRAMS


def rectify_forward(
    own: Sequence[Tensor], slots: Tensor, static: Tensor, query: Tensor, heads: int
) -> Tensor:
    """Return the weighted sum of values, in the shape and dtype of the start.

    `own` are the start and the partial, if there is one; `static` is b [most, width] by distance, from the
    latest value back, and `query` is w [width].
    """
    launch = Launch("rectify", own[0], heads)
    start, partial = launch.own(own)
    out = torch.empty_like(start)
    launch(launch.tiles, _rectify, start, partial, slots, static.contiguous(), query, out, len(slots), EPS)
    return out


def rectify_backward(
    own: Sequence[Tensor],
    slots: Tensor,
    static: Tensor,
    query: Tensor,
    heads: int,
    gradient: Tensor,
    to_slots: Tensor,
    add: bool,
) -> list[Tensor]:
    """Return partial sums of the gradients of b and w, and the gradients of `own`.

    The first are [programs, 2, values, width] in fp32, by distance. The gradients of slots are written to
    `to_slots`, or with `add` added to it.
    """
    launch = Launch("rectify_backward", own[0], heads)
    start, partial = launch.own(own)
    values = len(own) + len(slots)
    programs = min(max(1, PROGRAMS // values), launch.tiles)
    shares = torch.empty((programs, 2, values, start.shape[2]), dtype=torch.float32, device=start.device)
    made = [torch.empty_like(each) for each in (start, partial) if each is not None]
    given = (start, partial, slots, static.contiguous(), query, gradient.contiguous(), *launch.own(made))
    grid = (values, programs)
    launch(grid, _rectify_backward, *given, to_slots, shares, len(slots), EPS, programs, values, ADD=add)
    return [shares, *made]


@triton.jit(do_not_specialize=["reads"])
def _rectify(
    start,
    partial,
    slots,
    static,
    query,
    out,
    reads,
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
    q = load(query + at, inside)
    ago = reads
    if partial is not None:
        ago += 1
    static += at
    x = load(start + at_token, there)
    score, _ = scored(x, q, eps, WIDTH)
    total = x * (load(static + ago * WIDTH, inside) + tl.maximum(score, 0.0))
    for _ in tl.range(0, reads):
        ago -= 1
        x = load(slots + at_token, there)
        score, _ = scored(x, q, eps, WIDTH)
        total += x * (load(static + ago * WIDTH, inside) + tl.maximum(score, 0.0))
        slots += slot_stride
    if partial is not None:
        x = load(partial + at_token, there)
        score, _ = scored(x, q, eps, WIDTH)
        total += x * (load(static, inside) + tl.maximum(score, 0.0))
    store(out + at_token, total, there)


@triton.jit(do_not_specialize=["reads", "programs", "values"])
def _rectify_backward(
    start,
    partial,
    slots,
    static,
    query,
    gradient,
    to_start,
    to_partial,
    to_slots,
    shares,
    reads,
    eps,
    programs,
    values,
    slot_stride,
    tokens,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ADD: tl.constexpr,
):
    # the start is the first value, then come the slots, then the partial
    number, first = tl.program_id(0), tl.program_id(1)
    ago = values - 1 - number
    # as a tensor, since the interpreter of Triton 3.9 refuses masks made of a scalar
    which = tl.full([1, 1, 1], 0, tl.int32) + number
    token, _, at, inside = place(first, WIDTH, HEADS, BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM)
    q, b = load(query + at, inside), load(static + ago * WIDTH + at, inside)
    at_slot = (number - 1).to(tl.int64) * slot_stride
    to_static = tl.full([BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM], 0.0, tl.float32)
    to_query = tl.full([BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM], 0.0, tl.float32)
    for _ in tl.range(first, tl.cdiv(tokens, BLOCK_TOKENS), programs):
        there, at_token = inside & (token < tokens), token * WIDTH + at
        g = load(gradient + at_token, there)
        of_start, of_slot = there & (which == 0), there & (which > 0) & (which <= reads)
        x = load(start + at_token, of_start) + load(slots + at_slot + at_token, of_slot)
        if partial is not None:
            x += load(partial + at_token, there & (which > reads))
        score, scale = scored(x, q, eps, WIDTH)
        product = g * x
        to_static += product
        # the gradient of ReLU at 0 is 1, as in the reference
        to_score = tl.where(score >= 0, tl.sum(product, 2, keep_dims=True), 0.0)
        shrunk = tl.sum(to_score * score, 1, keep_dims=True) * (scale * scale / WIDTH)
        to_score *= scale
        to_query += to_score * x
        made = g * (b + tl.maximum(score, 0.0)) + to_score * q - shrunk * x
        if ADD:
            made += load(to_slots + at_slot + at_token, of_slot)
        store(to_slots + at_slot + at_token, made, of_slot)
        store(to_start + at_token, made, of_start)
        if partial is not None:
            store(to_partial + at_token, made, there & (which > reads))
        token += programs * BLOCK_TOKENS
    shares += (first.to(tl.int64) * 2 * values + ago) * WIDTH + at
    store(shares, tl.sum(to_static, 0, keep_dims=True), inside)
    store(shares + values * WIDTH, tl.sum(to_query, 0, keep_dims=True), inside)
