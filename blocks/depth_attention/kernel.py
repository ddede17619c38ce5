"""Triton kernels for depth attention, and the functions that launch them.

Each program processes a tile of tokens of one kv head with all query heads of its group: keys and values are
read once per kv head. No two programs write to the same place, so results do not depend on their order.
Blocks are [tokens, group, head_dim], padded to powers of two; keys and values have a group of 1. All
arithmetic is in fp32, without matrix products, since each query meets one slot at a time.

The forward pass is an online softmax (arXiv 1805.02867) over a number of slots known at run time. Only the
log-sum-exp of the scores is saved, from which the backward kernels recompute the weights (arXiv 2205.14135).
`pull` and `Push` are the two methods for the gradients of slots: see `backward_method.py`.

With a `turn`, a rotation of the step, queries are rotated as they are loaded and their gradients rotated back
as they are stored. `pull` rotates the queries of each read again, which saves writing a rotated copy of
`H d e` bytes per token and step. A turn is [head_dim] in fp32, cosine and sine of each pair (2i, 2i + 1).

Tensors are [batch, sequence, heads, head_dim]; slots [slots, batch, sequence, kv_heads, head_dim] are dense.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.depth_attention.tile_kernel import Start, load, load_heads, place, turned
from blocks.kernels.tensors import in_heads

COLUMNS = 8
"""Columns of a table of reads: addresses of queries, gradients, log-sum-exps and deltas, the number of slots
read, the stride between tokens of the queries, the address of their turn, and padding to 16 bytes."""


class Push(NamedTuple):
    """Tensors, shaped like the slots, to which a backward step adds fp32 gradients of slots from `first` on.

    The `only` step writes them instead, in any dtype.
    """

    keys: Tensor
    values: Tensor
    first: int
    only: bool = False


class Row(NamedTuple):
    """The row in which a backward step is recorded for `pull`: `number` of `table`, int64 [rows, COLUMNS]."""

    table: Tensor
    number: int


class Queries(NamedTuple):
    """Properties that all queries of a table share.

    Attributes:
        turned: whether they are rotated, each by the turn in its row.
        apart: a power of two, at most 8, that divides the strides between tokens.
    """

    turned: bool = False
    apart: int = 1


def attend_forward(
    query: Tensor, keys: Tensor, values: Tensor, reads: int, turn: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Attend over the first `reads` slots, which is at least 1.

    Returns the output, in the shape and dtype of the query, and the fp32 log-sum-exp [batch, sequence,
    heads].
    """
    rows = in_heads(query)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    log_sum = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    start = Start("forward", query.shape, keys.shape[3], query.device)
    tensors = (rows, keys, values, out, log_sum, log_sum if turn is None else turn)
    flags = {"TURN": turn is not None, "STAGES": start.tile.stages}
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
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the query, and delta = sum(gradient * out) [batch, sequence, heads] in fp32.

    The first is written to `made` if given, whose heads of a token must be contiguous. With `push`, the
    gradients of the slots are added to it. With `row`, the step is recorded for `pull`, which reads the
    tensors by address: the query must be `placed`, the gradient `readable`, and all of them kept alive.
    """
    rows, gradients = in_heads(query), in_heads(gradient)
    assert row is None or (rows.data_ptr() == query.data_ptr() and gradient.is_contiguous())
    made = torch.empty(query.shape, dtype=query.dtype, device=query.device) if made is None else made
    delta = torch.empty_like(log_sum)
    start = Start("backward", query.shape, keys.shape[3], query.device)
    to_keys, to_values, first, only = push or Push(delta, delta, reads)
    table = row.table[row.number] if row else delta
    turns = log_sum if turn is None else turn
    to_rows = _in_place(made)
    tensors = [rows, keys, values, in_heads(out), log_sum, gradients, to_rows, delta]
    tensors += [to_keys, to_values, table, turns]
    strides = (rows.stride(0), gradients.stride(0), to_rows.stride(0), keys.stride(0))
    flags = {"PUSH": push is not None, "ONLY": only, "NOTE": row is not None, "TURN": turn is not None}
    start(_backward, *tensors, reads, first, start.scale, *strides, STAGES=start.tile.stages, **flags)
    return made, delta


def pull(
    key: Tensor,
    value: Tensor,
    table: Tensor,
    rows: int,
    slot: int,
    heads: int,
    dtype: torch.dtype,
    turn: Tensor | None = None,
    queries: Queries = Queries(),  # noqa: B008 (immutable)
    made: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of one slot's key and value from the first `rows` reads of a table.

    Reads that did not see the slot add nothing. The tensors in the table have the dtype of the slots. With a
    `turn`, the gradient is that of the key before rotation. Gradients are written to `made` if given, whose
    heads of a token must be contiguous.
    """
    to_key, to_value = made or (torch.empty(key.shape, dtype=dtype, device=key.device) for _ in range(2))
    keys, values = _in_place(to_key), _in_place(to_value)
    shape = torch.Size((*key.shape[:2], heads, key.shape[3]))
    start = Start("pull", shape, key.shape[2], key.device)
    tensors = (key, value, keys, values, table, table if turn is None else turn)
    flags = {"TURN": turn is not None, "QUERIES": queries.turned, "APART": queries.apart}
    strides = (keys.stride(0), values.stride(0))
    start(_pull, *tensors, rows, slot, start.scale, *strides, COLUMNS=COLUMNS, **flags)
    return to_key, to_value


def _in_place(x: Tensor) -> Tensor:
    """Return a view of x as [tokens, heads, head_dim], for writing."""
    rows = in_heads(x)
    assert rows.data_ptr() == x.data_ptr(), "a copy would be written in its place"
    return rows


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
    STAGES: tl.constexpr,
):
    token, head, at, kv_at, wide, per_head, narrow = place(
        tokens, KV_HEADS, GROUP, DIM, BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM
    )
    # scores for exp2, which is one instruction
    q = load(query + token * query_stride + at, wide) * (scale * 1.4426950408889634)
    if TURN:
        q = turned(q, turn, DIM, False)
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
            share = tl.exp(tl.sum(q * k, 2, keep_dims=True) - norm)
            other = tl.exp(tl.sum(q * other_k, 2, keep_dims=True) - norm)
            other = tl.where(slot + 1 < reads, other, 0.0)
            to_score = share * (tl.sum(g * v.to(tl.float32), 2, keep_dims=True) - outward)
            to_other = other * (tl.sum(g * other_v.to(tl.float32), 2, keep_dims=True) - outward)
            to_query += to_score * k + to_other * other_k
            keys += 2 * slot_stride
            values += 2 * slot_stride
    else:
        for slot in tl.range(0, reads, num_stages=STAGES):
            k, v = load(keys + kv_at, narrow), load(values + kv_at, narrow)
            share = tl.exp(tl.sum(q * k, 2, keep_dims=True) - norm)
            to_score = share * (tl.sum(g * v, 2, keep_dims=True) - outward)
            to_query += to_score * k
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


@triton.jit(do_not_specialize=["rows", "slot"])
def _pull(
    key,
    value,
    key_gradient,
    value_gradient,
    table,
    turn,
    rows,
    slot,
    scale,
    key_gradient_stride,
    value_gradient_stride,
    tokens,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    TURN: tl.constexpr,
    QUERIES: tl.constexpr,
    APART: tl.constexpr,
):
    token, head, at, kv_at, wide, per_head, narrow = place(
        tokens, KV_HEADS, GROUP, DIM, BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM
    )
    stats = token * (KV_HEADS * GROUP) + head
    gradient_at = token * (KV_HEADS * GROUP * DIM) + at
    k, v = load(key + kv_at, narrow) * scale, load(value + kv_at, narrow)
    # summed over the group once at the end
    to_key = tl.full([BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM], 0.0, tl.float32)
    to_value = tl.full([BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM], 0.0, tl.float32)
    for _ in tl.range(0, rows):
        query = tl.load(table).to(tl.pointer_type(key.dtype.element_ty))
        gradient = tl.load(table + 1).to(tl.pointer_type(key.dtype.element_ty))
        log_sum = tl.load(table + 2).to(tl.pointer_type(tl.float32))
        delta = tl.load(table + 3).to(tl.pointer_type(tl.float32))
        # a read that did not see the slot is masked out and adds 0
        seen = token < tl.where(tl.load(table + 4) > slot, tokens, 0)
        stride = tl.multiple_of(tl.load(table + 5), APART)
        q = load(tl.multiple_of(query, 16) + token * stride + at, wide & seen)
        if QUERIES:
            by = tl.load(table + 6).to(tl.pointer_type(tl.float32))
            if DIM % 4 == 0:
                # the hint allows 16-byte loads of the table's row
                by = tl.multiple_of(by, 16)
            q = turned(q, by, DIM, False)
        g = load(tl.multiple_of(gradient, 16) + gradient_at, wide & seen)
        share = tl.exp(tl.sum(q * k, 2, keep_dims=True) - load_heads(log_sum + stats, per_head & seen))
        to_score = share * (tl.sum(g * v, 2, keep_dims=True) - load_heads(delta + stats, per_head & seen))
        to_key += to_score * q
        to_value += share * g
        table += COLUMNS
    to_key = tl.sum(to_key, 1, keep_dims=True) * scale
    if TURN:
        to_key = turned(to_key, turn, DIM, True)
    to_value = tl.sum(to_value, 1, keep_dims=True)
    in_token = kv_at - token * (KV_HEADS * DIM)
    to_key, to_value = to_key.to(key_gradient.dtype.element_ty), to_value.to(value_gradient.dtype.element_ty)
    tl.store(key_gradient + token * key_gradient_stride + in_token, to_key, mask=narrow)
    tl.store(value_gradient + token * value_gradient_stride + in_token, to_value, mask=narrow)
