"""Triton kernels for sums of values weighted by a softmax, and the functions that launch them.

A program processes whole values of a tile of tokens in fp32, as blocks [tokens, heads, width / heads], and
reads each value once. The forward pass is an online softmax (arXiv 1805.02867); only the log-sum-exp of the
scores is saved, from which the backward pass recomputes the weights (arXiv 2205.14135). There each program
iterates over several tiles, and writes its partial sum of the query's gradient to a separate row. The rows
are summed afterwards, so that results do not depend on the order of programs.

Values are dense: the start and the partial [batch, sequence, width], slots [slots, batch, sequence, width].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.kernels.weight_sums import partial_sums
from blocks.primitives.reference import EPS
from blocks.wiring.residual.mix.mix_kernels.tile_kernel import Launch, load, load_heads, place, scored, store
from blocks.wiring.residual.mix.mix_kernels.tiles import PROGRAMS


def attend_forward(own: Sequence[Tensor], slots: Tensor, query: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return the sum of values, in the shape and dtype of the start, and the log-sum-exp of the scores.

    `own` are the start and the partial, if there is one. The second result is [batch, sequence, heads], in
    fp32, of logarithms to base 2.
    """
    launch = Launch("attend", own[0], heads)
    start, partial = launch.own(own)
    out = torch.empty_like(start)
    log_sum = torch.empty((*start.shape[:2], heads), dtype=torch.float32, device=start.device)
    launch(launch.tiles, _attend, start, partial, slots, query, out, log_sum, len(slots), EPS)
    return out, log_sum


def attend_backward(
    own: Sequence[Tensor],
    slots: Tensor,
    query: Tensor,
    out: Tensor,
    log_sum: Tensor,
    gradient: Tensor,
    to_slots: Tensor,
    add: bool,
    given: dict[int, Tensor],
) -> list[Tensor]:
    """Return the gradients of `own`; add those of the slots and the query.

    The gradients of slots are written to `to_slots`, or with `add` added to it. Partial sums of the query's
    gradient [programs, width] are added to the entry of `given` for this number of programs, or stored there.
    """
    launch = Launch("attend_backward", own[0], log_sum.shape[-1])
    start, partial = launch.own(own)
    programs = min(PROGRAMS, launch.tiles)
    shares, more = partial_sums(given, programs, len(query), query.device)
    made = [torch.empty_like(each) for each in (start, partial) if each is not None]
    launch(
        programs,
        _attend_backward,
        start,
        partial,
        slots,
        query,
        out,
        log_sum,
        gradient.contiguous(),
        *launch.own(made),
        to_slots,
        shares,
        len(slots),
        EPS,
        programs,
        ADD=add,
        MORE=more,
    )
    return made


@triton.jit
def _met(value, query, most, total, mixed, eps, WIDTH: tl.constexpr):
    """Return the state of the online softmax after one more value; the query is in units of log2(e)."""
    score, _ = scored(value, query, eps, WIDTH)
    higher = tl.maximum(most, score)
    shrink, share = tl.exp2(most - higher), tl.exp2(score - higher)
    return higher, total * shrink + share, mixed * shrink + share * value


@triton.jit(do_not_specialize=["reads"])
def _attend(
    start,
    partial,
    slots,
    query,
    out,
    log_sum,
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
    token, head, at, inside = place(tl.program_id(0), WIDTH, HEADS, BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM)
    there = inside & (token < tokens)
    at_token = token * WIDTH + at
    q = load(query + at, inside) * 1.4426950408889634
    most = tl.full([BLOCK_TOKENS, BLOCK_HEADS, 1], float("-inf"), tl.float32)
    total = tl.full([BLOCK_TOKENS, BLOCK_HEADS, 1], 0.0, tl.float32)
    mixed = tl.full([BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM], 0.0, tl.float32)
    most, total, mixed = _met(load(start + at_token, there), q, most, total, mixed, eps, WIDTH)
    for _ in tl.range(0, reads):
        most, total, mixed = _met(load(slots + at_token, there), q, most, total, mixed, eps, WIDTH)
        slots += slot_stride
    if partial is not None:
        most, total, mixed = _met(load(partial + at_token, there), q, most, total, mixed, eps, WIDTH)
    store(out + at_token, mixed / total, there)
    tl.store(log_sum + token * HEADS + head, most + tl.log2(total), mask=(token < tokens) & (head < HEADS))


@triton.jit
def _returned(value, query, gradient, norm, outward, eps, WIDTH: tl.constexpr):
    """Return the gradient of a value, and its addition to the query's gradient."""
    score, scale = scored(value, query, eps, WIDTH)
    share = tl.exp2(score * 1.4426950408889634 - norm)
    to_score = share * (tl.sum(gradient * value, 2, keep_dims=True) - outward)
    shrunk = tl.sum(to_score * score, 1, keep_dims=True) * (scale * scale / WIDTH)
    to_dot = to_score * scale
    return share * gradient + to_dot * query - shrunk * value, to_dot * value


@triton.jit(do_not_specialize=["reads"])
def _attend_backward(
    start,
    partial,
    slots,
    query,
    out,
    log_sum,
    gradient,
    to_start,
    to_partial,
    to_slots,
    shares,
    reads,
    eps,
    programs,
    slot_stride,
    tokens,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ADD: tl.constexpr,
    MORE: tl.constexpr,
):
    first = tl.program_id(0)
    token, head, at, inside = place(first, WIDTH, HEADS, BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM)
    q = load(query + at, inside)
    to_query = tl.full([BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM], 0.0, tl.float32)
    for _ in tl.range(first, tl.cdiv(tokens, BLOCK_TOKENS), programs):
        there, at_token = inside & (token < tokens), token * WIDTH + at
        g = load(gradient + at_token, there)
        outward = tl.sum(g * load(out + at_token, there), 2, keep_dims=True)
        norm = load_heads(log_sum + token * HEADS + head, (token < tokens) & (head < HEADS))
        made, more = _returned(load(start + at_token, there), q, g, norm, outward, eps, WIDTH)
        store(to_start + at_token, made, there)
        to_query += more
        at_slot = at_token
        for _ in tl.range(0, reads):
            made, more = _returned(load(slots + at_slot, there), q, g, norm, outward, eps, WIDTH)
            if ADD:
                made += load(to_slots + at_slot, there)
            store(to_slots + at_slot, made, there)
            to_query += more
            at_slot += slot_stride
        if partial is not None:
            made, more = _returned(load(partial + at_token, there), q, g, norm, outward, eps, WIDTH)
            store(to_partial + at_token, made, there)
            to_query += more
        token += programs * BLOCK_TOKENS
    own = tl.sum(to_query, 0, keep_dims=True)
    row = shares + first.to(tl.int64) * WIDTH + at
    if MORE:
        own += load(row, inside)
    store(row, own, inside)
