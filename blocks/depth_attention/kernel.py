"""Triton kernels for depth attention, and the functions that launch them.

Each program processes a tile of tokens of one kv head with all query heads of its group: keys and values are
read once per kv head. No two programs write to the same place, so results do not depend on their order.
Blocks are [tokens, group, head_dim], padded to powers of two; keys and values have a group of 1. All
arithmetic is in fp32, without matrix products, since each query meets one slot at a time.

The forward pass is an online softmax (arXiv 1805.02867) over a number of slots known at run time. Only the
log-sum-exp of the scores is saved, from which the backward kernels recompute the weights (arXiv 2205.14135).
`Push` and `pull_kernel.py` are the two methods for the gradients of slots: see `backward_method.py`.

With a `turn`, a rotation of the step, queries are rotated as they are loaded and their gradients rotated back
as they are stored. A turn is [head_dim] in fp32, cosine and sine of each pair (2i, 2i + 1). A bias by
distance is subtracted from the scores in registers; each program of the backward pass sums its gradient over
a tile of tokens.

Tensors are [batch, sequence, heads, head_dim]; slots [slots, batch, sequence, kv_heads, head_dim] are dense.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.depth_attention.tile_kernel import Start, load, load_heads, place, turned
from blocks.kernels.tensors import in_heads, in_place
from blocks.kernels.weight_sums import partial_sums

COLUMNS = 8
"""Columns of a table of reads: addresses of queries, gradients, log-sum-exps and deltas, the number of slots
read, the stride between tokens of the queries, the addresses of their turn and their bias."""


class Push(NamedTuple):
    """Tensors, shaped like the slots, to which a backward step adds fp32 gradients of slots from `first` on.

    The `only` step writes them instead, in any dtype.
    """

    keys: Tensor
    values: Tensor
    first: int
    only: bool = False


class Bias(NamedTuple):
    """A bias of scores: a number per query head times the slot's distance from the latest is subtracted.

    Attributes:
        slopes: these numbers [heads].
        apart: the distance between neighbors among the slots that are read.
        shares: partial sums of the slopes' gradient, fp32 [tiles, heads] by the number of tiles of tokens.
            The backward pass adds to them.
    """

    slopes: Tensor
    apart: int
    shares: dict[int, Tensor]


class Row(NamedTuple):
    """The row in which a backward step is recorded for `pull`: `number` of `table`, int64 [rows, COLUMNS]."""

    table: Tensor
    number: int


def attend_forward(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    reads: int,
    turn: Tensor | None = None,
    bias: Bias | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend over the first `reads` slots, which is at least 1.

    Returns the output, in the shape and dtype of the query, and the fp32 log-sum-exp [batch, sequence,
    heads].
    """
    rows = in_heads(query)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    log_sum = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    start = Start("forward", query.shape, keys.shape[3], query.device)
    tensors = (rows, keys, values, out, log_sum, log_sum if turn is None else turn, bias and bias.slopes)
    flags = {"TURN": turn is not None, "BIAS": bias.apart if bias else 0, "STAGES": start.tile.stages}
    start(_forward, *tensors, reads, start.scale, rows.stride(0), keys.stride(0), **flags)
    return out, log_sum


def attend_backward(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    log_sum: Tensor,
    gradient: Tensor,
    reads: int,
    push: Push | None = None,
    row: Row | None = None,
    turn: Tensor | None = None,
    made: Tensor | None = None,
    bias: Bias | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the query, and delta = sum(gradient * out) [batch, sequence, heads] in fp32.

    The first is written to `made` if given, whose heads of a token must be contiguous. With `push`, the
    gradients of the slots are added to it, and with `bias` that of its slopes to its shares. With `row`, the
    step is recorded for `pull`, which reads the tensors by address: the query must be `placed`, the gradient
    `readable`, and all of them kept alive.
    """
    rows, gradients = in_heads(query), in_heads(gradient)
    assert row is None or (rows.data_ptr() == query.data_ptr() and gradient.is_contiguous())
    made = torch.empty(query.shape, dtype=query.dtype, device=query.device) if made is None else made
    delta = torch.empty_like(log_sum)
    start = Start("backward", query.shape, keys.shape[3], query.device)
    to_keys, to_values, first, only = push or Push(delta, delta, reads)
    table = row.table[row.number] if row else delta
    turns = log_sum if turn is None else turn
    to_rows = in_place(made)
    shares, add = None, False
    if bias:
        tiles = triton.cdiv(start.tokens, start.tile.tokens)
        shares, add = partial_sums(bias.shares, tiles, len(bias.slopes), bias.slopes.device)
    tensors = (rows, keys, values, in_heads(out), log_sum, gradients, to_rows, delta, to_keys, to_values)
    others = (table, turns, bias and bias.slopes, shares)
    strides = (rows.stride(0), gradients.stride(0), to_rows.stride(0), keys.stride(0))
    flags: dict[str, int] = {
        "PUSH": push is not None,
        "ONLY": only,
        "NOTE": row is not None,
        "TURN": turn is not None,
    }
    flags |= {"STAGES": start.tile.stages, "BIAS": bias.apart if bias else 0, "ADD": add}
    start(_backward, *tensors, *others, reads, first, start.scale, *strides, **flags)
    return made, delta


def placed(x: Tensor) -> Tensor:
    """Return x, or a copy, with strides and an address that are multiples of 16 bytes, as `pull` requires."""
    rows = in_heads(x)
    there = rows.data_ptr() == x.data_ptr() and not rows.data_ptr() % 16
    return x if there else readable(x)


def readable(x: Tensor) -> Tensor:
    """Return x, or a copy, that is dense and aligned to 16 bytes, as `pull` requires."""
    dense = x.contiguous()
    return dense.clone() if dense.data_ptr() % 16 else dense


@triton.jit(do_not_specialize=["reads"])
def _forward(
    query,
    keys,
    values,
    out,
    log_sum,
    turn,
    bias,
    reads,
    scale,
    query_stride,
    slot_stride,
    tokens,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    TURN: tl.constexpr,
    BIAS: tl.constexpr,
    STAGES: tl.constexpr,
):
    token, head, at, kv_at, wide, per_head, narrow = place(
        tokens, KV_HEADS, GROUP, DIM, BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM
    )
    # scores for exp2, which is one instruction
    q = load(query + token * query_stride + at, wide) * (scale * 1.4426950408889634)
    if TURN:
        q = turned(q, turn, DIM, False)
    if BIAS:
        slope = load_heads(bias + head, per_head) * (BIAS * 1.4426950408889634)
    most = tl.full([BLOCK_TOKENS, BLOCK_GROUP, 1], float("-inf"), tl.float32)
    total = tl.full([BLOCK_TOKENS, BLOCK_GROUP, 1], 0.0, tl.float32)
    mixed = tl.full([BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM], 0.0, tl.float32)
    # two slots per iteration: twice the loads in flight, half the rescaling
    for slot in tl.range(0, reads, 2, num_stages=STAGES):
        both = tl.where(slot + 1 < reads, narrow, False)
        k, other_k = tl.load(keys + kv_at, narrow, 0.0), tl.load(keys + slot_stride + kv_at, both, 0.0)
        v, other_v = tl.load(values + kv_at, narrow, 0.0), tl.load(values + slot_stride + kv_at, both, 0.0)
        score = tl.sum(q * k.to(tl.float32), 2, keep_dims=True)
        other = tl.sum(q * other_k.to(tl.float32), 2, keep_dims=True)
        if BIAS:
            score -= slope * (reads - 1 - slot)
            other -= slope * (reads - 2 - slot)
        other = tl.where(slot + 1 < reads, other, float("-inf"))
        higher = tl.maximum(most, tl.maximum(score, other))
        shrink, share, other = tl.exp2(most - higher), tl.exp2(score - higher), tl.exp2(other - higher)
        total = total * shrink + share + other
        mixed = mixed * shrink + share * v.to(tl.float32) + other * other_v.to(tl.float32)
        most = higher
        keys += 2 * slot_stride
        values += 2 * slot_stride
    row = token * (KV_HEADS * GROUP)
    tl.store(out + row * DIM + at, (mixed / total).to(out.dtype.element_ty), mask=wide)
    tl.store(log_sum + row + head, (most + tl.log2(total)) * 0.6931471805599453, mask=per_head)


@triton.jit(do_not_specialize=["reads", "first"])
def _backward(
    query,
    keys,
    values,
    out,
    log_sum,
    gradient,
    query_gradient,
    delta,
    key_gradients,
    value_gradients,
    note,
    turn,
    bias,
    shares,
    reads,
    first,
    scale,
    query_stride,
    gradient_stride,
    query_gradient_stride,
    slot_stride,
    tokens,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    PUSH: tl.constexpr,
    ONLY: tl.constexpr,
    NOTE: tl.constexpr,
    TURN: tl.constexpr,
    BIAS: tl.constexpr,
    ADD: tl.constexpr,
    STAGES: tl.constexpr,
):
    token, head, at, kv_at, wide, per_head, narrow = place(
        tokens, KV_HEADS, GROUP, DIM, BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM
    )
    row = token * (KV_HEADS * GROUP)
    q = load(query + token * query_stride + at, wide) * scale
    if TURN:
        q = turned(q, turn, DIM, False)
    g = load(gradient + token * gradient_stride + at, wide)
    norm = load_heads(log_sum + row + head, per_head)
    outward = tl.sum(g * load(out + row * DIM + at, wide), 2, keep_dims=True)
    tl.store(delta + row + head, outward, mask=per_head)
    to_query = tl.full([BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM], 0.0, tl.float32)
    if BIAS:
        slope = load_heads(bias + head, per_head) * BIAS
        to_slope = tl.full([BLOCK_TOKENS, BLOCK_GROUP, 1], 0.0, tl.float32)
    if GROUP > 1 and not PUSH:
        # two slots per iteration: with shared slots, one would leave too few loads in flight
        for slot in tl.range(0, reads, 2, num_stages=STAGES):
            both = tl.where(slot + 1 < reads, narrow, False)
            k, other_k = tl.load(keys + kv_at, narrow, 0.0), tl.load(keys + slot_stride + kv_at, both, 0.0)
            v, other_v = (
                tl.load(values + kv_at, narrow, 0.0),
                tl.load(values + slot_stride + kv_at, both, 0.0),
            )
            k, other_k = k.to(tl.float32), other_k.to(tl.float32)
            score, other = tl.sum(q * k, 2, keep_dims=True), tl.sum(q * other_k, 2, keep_dims=True)
            if BIAS:
                score -= slope * (reads - 1 - slot)
                other -= slope * (reads - 2 - slot)
            share, other = tl.exp(score - norm), tl.exp(other - norm)
            other = tl.where(slot + 1 < reads, other, 0.0)
            to_score = share * (tl.sum(g * v.to(tl.float32), 2, keep_dims=True) - outward)
            to_other = other * (tl.sum(g * other_v.to(tl.float32), 2, keep_dims=True) - outward)
            to_query += to_score * k + to_other * other_k
            if BIAS:
                to_slope += to_score * (reads - 1 - slot) + to_other * (reads - 2 - slot)
            keys += 2 * slot_stride
            values += 2 * slot_stride
    else:
        for slot in tl.range(0, reads, num_stages=STAGES):
            k, v = load(keys + kv_at, narrow), load(values + kv_at, narrow)
            score = tl.sum(q * k, 2, keep_dims=True)
            if BIAS:
                score -= slope * (reads - 1 - slot)
            share = tl.exp(score - norm)
            to_score = share * (tl.sum(g * v, 2, keep_dims=True) - outward)
            to_query += to_score * k
            if BIAS:
                to_slope += to_score * (reads - 1 - slot)
            if PUSH:
                if slot >= first:
                    to_key = tl.sum(to_score * q, 1, keep_dims=True)
                    to_value = tl.sum(share * g, 1, keep_dims=True)
                    if not ONLY:
                        to_key += load(key_gradients + kv_at, narrow)
                        to_value += load(value_gradients + kv_at, narrow)
                    kind = key_gradients.dtype.element_ty
                    tl.store(key_gradients + kv_at, to_key.to(kind), mask=narrow)
                    tl.store(value_gradients + kv_at, to_value.to(kind), mask=narrow)
                key_gradients += slot_stride
                value_gradients += slot_stride
            keys += slot_stride
            values += slot_stride
    if TURN:
        to_query = turned(to_query, turn, DIM, True)
    to_query = (to_query * scale).to(query_gradient.dtype.element_ty)
    tl.store(query_gradient + token * query_gradient_stride + at, to_query, mask=wide)
    if BIAS:
        total = -BIAS * tl.sum(to_slope, 0, keep_dims=True)
        own = head < (tl.program_id(0) % KV_HEADS + 1) * GROUP
        place_of = shares + tl.program_id(0) // KV_HEADS * (KV_HEADS * GROUP) + head
        if ADD:
            total += load(place_of, own)
        tl.store(place_of, total, mask=own)
    if NOTE:  # noqa: SIM102
        # written on the device: a copy from the host would synchronize
        if tl.program_id(0) == 0:
            tl.store(note, query.to(tl.int64))
            tl.store(note + 1, gradient.to(tl.int64))
            tl.store(note + 2, log_sum.to(tl.int64))
            tl.store(note + 3, delta.to(tl.int64))
            tl.store(note + 4, reads.to(tl.int64))
            tl.store(note + 5, query_stride)  # a constant where it is 1
            tl.store(note + 6, turn.to(tl.int64))
            if BIAS:
                tl.store(note + 7, bias.to(tl.int64))
