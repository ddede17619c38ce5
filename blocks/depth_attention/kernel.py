"""Triton kernels for depth attention, and the functions that start them.

Each program handles a tile of tokens of one kv head, with all query heads of its group: keys and values are
read once per kv head, and no two programs write to the same place, so results do not depend on their order.
Blocks are [tokens, group, head_dim], padded to powers of two under masks; keys and values have a group of 1.
All arithmetic is in fp32, by multiply-adds and sums: one query against one slot is no matrix product.

Forward is the online softmax (arXiv 1805.02867) over a number of slots that is known only at run time; only
the log-sum-exp of the scores is kept, from which the backward kernels make the weights again (arXiv
2205.14135). `pull` and `Push` are the two ways to the gradients of slots: see `ways.py`.

Tensors are [batch, sequence, heads, head_dim]; slots [slots, batch, sequence, kv_heads, head_dim] are dense.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.depth_attention.tiles import Pass, Shape, padded, tile

COLUMNS = 5
"""Of a table of reads: addresses of queries, gradients, log-sum-exps and deltas, and the slots read."""


class Push(NamedTuple):
    """Where a backward step adds gradients, shaped like the slots in fp32, of slots `first` and later."""

    keys: Tensor
    values: Tensor
    first: int


class Row(NamedTuple):
    """Where a backward step notes itself for `pull`: row `number` of `table`, int64 [rows, COLUMNS]."""

    table: Tensor
    number: int


def attend_forward(query: Tensor, keys: Tensor, values: Tensor, reads: int) -> tuple[Tensor, Tensor]:
    """Attend over the first `reads` slots, at least one.

    Returns the output, shaped and typed like the query, and the log-sum-exp [batch, sequence, heads] in fp32.
    """
    rows = in_rows(query)
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    log_sum = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
    start = _Start("forward", query.shape, keys.shape[3], query.device)
    tensors = (rows, keys, values, out, log_sum)
    start(_forward, *tensors, reads, start.scale, rows.stride(0), keys.stride(0), STAGES=start.tile.stages)
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
) -> tuple[Tensor, Tensor]:
    """Return the gradient of the query, and delta = sum(gradient * out) [batch, sequence, heads] in fp32.

    With `push` the gradients of the slots are added there. With `row` the step is noted for `pull`, which
    reads query, gradient, log_sum and delta from where they are: `readable`, and kept until then.
    """
    assert row is None or (query.is_contiguous() and gradient.is_contiguous())
    rows, gradients = in_rows(query), in_rows(gradient)
    made = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    delta = torch.empty_like(log_sum)
    start = _Start("backward", query.shape, keys.shape[3], query.device)
    to_keys, to_values, first = push or Push(delta, delta, reads)
    table = row.table[row.number] if row else delta
    tensors = (rows, keys, values, in_rows(out), log_sum, gradients, made, delta, to_keys, to_values, table)
    strides = (rows.stride(0), gradients.stride(0), keys.stride(0))
    flags = {"PUSH": push is not None, "NOTE": row is not None, "STAGES": start.tile.stages}
    start(_backward, *tensors, reads, first, start.scale, *strides, **flags)
    return made, delta


def pull(
    key: Tensor, value: Tensor, table: Tensor, rows: int, slot: int, heads: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the gradients of one slot's key and value from the first `rows` reads of a table.

    Reads that did not see the slot give nothing. What the table points to has the dtype of the slots.
    """
    to_key = torch.empty(key.shape, dtype=dtype, device=key.device)
    to_value = torch.empty(value.shape, dtype=dtype, device=value.device)
    shape = torch.Size((*key.shape[:2], heads, key.shape[3]))
    start = _Start("pull", shape, key.shape[2], key.device)
    start(_pull, key, value, to_key, to_value, table, rows, slot, start.scale, COLUMNS=COLUMNS)
    return to_key, to_value


def in_rows(x: Tensor) -> Tensor:
    """Return x as [tokens, heads, head_dim] with each token's heads in one piece; a copy only if it must."""
    rows = x.flatten(0, 1)
    whole = rows.stride(2) == 1 and rows.stride(1) == rows.shape[2]
    return rows if whole else rows.contiguous()


def readable(x: Tensor) -> Tensor:
    """Return x as `pull` reads it from its address alone: dense, in pieces of 16 bytes; a copy if it must."""
    dense = x.contiguous()
    return dense.clone() if dense.data_ptr() % 16 else dense


class _Start:
    """Starts one kernel on queries [batch, sequence, heads, head_dim] over a number of kv heads."""

    def __init__(self, kernel: Pass, shape: torch.Size, kv_heads: int, device: torch.device) -> None:
        batch, length, heads, head_dim = shape
        self.tokens, self.kv_heads, self.head_dim = batch * length, kv_heads, head_dim
        self.group, self.device = heads // kv_heads, device
        self.scale = head_dim**-0.5
        self.tile = tile(Shape(kernel, _architecture(device), head_dim, self.group))

    def __call__(self, kernel: Any, *arguments: Any, **flags: Any) -> None:
        """Start it with the arguments between its tensors and sizes; nothing at all without tokens."""
        if not self.tokens:
            return
        # kv heads of a tile side by side: together they read whole rows of a slot
        grid = (triton.cdiv(self.tokens, self.tile.tokens) * self.kv_heads,)
        with torch.cuda.device(self.device if self.device.type == "cuda" else -1):
            kernel[grid](
                *arguments,
                self.tokens,
                KV_HEADS=self.kv_heads,
                GROUP=self.group,
                DIM=self.head_dim,
                BLOCK_TOKENS=self.tile.tokens,
                BLOCK_GROUP=padded(self.group),
                BLOCK_DIM=padded(self.head_dim),
                num_warps=self.tile.warps,
                enable_fp_fusion=True,
                **flags,
            )


def _architecture(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@triton.jit
def _place(
    tokens,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Return this program's tokens, offsets within a token's heads and within its kv heads, and which exist.

    Offsets grow past 2^31, so tokens are int64.
    """
    program = tl.program_id(0)
    kv_head = program % KV_HEADS
    token = (program // KV_HEADS).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)[:, None, None]
    member = tl.arange(0, BLOCK_GROUP)[None, :, None]
    element = tl.arange(0, BLOCK_DIM)[None, None, :]
    head = kv_head * GROUP + member
    there = token < tokens
    return (
        token,
        head,
        head * DIM + element,
        token * (KV_HEADS * DIM) + kv_head * DIM + element,
        there & (member < GROUP) & (element < DIM),
        there & (member < GROUP),
        there & (element < DIM),
    )


@triton.jit
def _load(pointers, mask):
    """Load as fp32, 0 where masked."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["reads"])
def _forward(
    query,
    keys,
    values,
    out,
    log_sum,
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
    STAGES: tl.constexpr,
):
    token, head, at, kv_at, wide, per_head, narrow = _place(
        tokens, KV_HEADS, GROUP, DIM, BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM
    )
    q = _load(query + token * query_stride + at, wide) * scale
    most = tl.full([BLOCK_TOKENS, BLOCK_GROUP, 1], float("-inf"), tl.float32)
    total = tl.full([BLOCK_TOKENS, BLOCK_GROUP, 1], 0.0, tl.float32)
    mixed = tl.full([BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM], 0.0, tl.float32)
    for _ in tl.range(0, reads, num_stages=STAGES):
        k, v = _load(keys + kv_at, narrow), _load(values + kv_at, narrow)
        score = tl.sum(q * k, 2, keep_dims=True)
        higher = tl.maximum(most, score)
        shrink, share = tl.exp(most - higher), tl.exp(score - higher)
        total = total * shrink + share
        mixed = mixed * shrink + share * v
        most = higher
        keys += slot_stride
        values += slot_stride
    row = token * (KV_HEADS * GROUP)
    tl.store(out + row * DIM + at, (mixed / total).to(out.dtype.element_ty), mask=wide)
    tl.store(log_sum + row + head, most + tl.log(total), mask=per_head)


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
    reads,
    first,
    scale,
    query_stride,
    gradient_stride,
    slot_stride,
    tokens,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    PUSH: tl.constexpr,
    NOTE: tl.constexpr,
    STAGES: tl.constexpr,
):
    token, head, at, kv_at, wide, per_head, narrow = _place(
        tokens, KV_HEADS, GROUP, DIM, BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM
    )
    row = token * (KV_HEADS * GROUP)
    q = _load(query + token * query_stride + at, wide) * scale
    g = _load(gradient + token * gradient_stride + at, wide)
    norm = _load(log_sum + row + head, per_head)
    outward = tl.sum(g * _load(out + row * DIM + at, wide), 2, keep_dims=True)
    tl.store(delta + row + head, outward, mask=per_head)
    to_query = tl.full([BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM], 0.0, tl.float32)
    for slot in tl.range(0, reads, num_stages=STAGES):
        k, v = _load(keys + kv_at, narrow), _load(values + kv_at, narrow)
        share = tl.exp(tl.sum(q * k, 2, keep_dims=True) - norm)
        to_score = share * (tl.sum(g * v, 2, keep_dims=True) - outward)
        to_query += to_score * k
        if PUSH:
            if slot >= first:
                to_key = tl.sum(to_score * q, 1, keep_dims=True)
                to_value = tl.sum(share * g, 1, keep_dims=True)
                tl.store(key_gradients + kv_at, _load(key_gradients + kv_at, narrow) + to_key, mask=narrow)
                to_value += _load(value_gradients + kv_at, narrow)
                tl.store(value_gradients + kv_at, to_value, mask=narrow)
            key_gradients += slot_stride
            value_gradients += slot_stride
        keys += slot_stride
        values += slot_stride
    tl.store(
        query_gradient + row * DIM + at, (to_query * scale).to(query_gradient.dtype.element_ty), mask=wide
    )
    if NOTE:  # noqa: SIM102
        # written on the device, for a copy from the host would wait for it
        if tl.program_id(0) == 0:
            tl.store(note, query.to(tl.int64))
            tl.store(note + 1, gradient.to(tl.int64))
            tl.store(note + 2, log_sum.to(tl.int64))
            tl.store(note + 3, delta.to(tl.int64))
            tl.store(note + 4, reads.to(tl.int64))


@triton.jit(do_not_specialize=["rows", "slot"])
def _pull(
    key,
    value,
    key_gradient,
    value_gradient,
    table,
    rows,
    slot,
    scale,
    tokens,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    token, head, at, kv_at, wide, per_head, narrow = _place(
        tokens, KV_HEADS, GROUP, DIM, BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM
    )
    stats = token * (KV_HEADS * GROUP) + head
    at += token * (KV_HEADS * GROUP * DIM)
    k, v = _load(key + kv_at, narrow) * scale, _load(value + kv_at, narrow)
    # summed over the group once, at the end
    to_key = tl.full([BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM], 0.0, tl.float32)
    to_value = tl.full([BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM], 0.0, tl.float32)
    for _ in tl.range(0, rows):
        query = tl.load(table).to(tl.pointer_type(key.dtype.element_ty))
        gradient = tl.load(table + 1).to(tl.pointer_type(key.dtype.element_ty))
        log_sum = tl.load(table + 2).to(tl.pointer_type(tl.float32))
        delta = tl.load(table + 3).to(tl.pointer_type(tl.float32))
        # a read that did not see the slot loads nothing, and its gradient of 0 adds nothing
        seen = token < tl.where(tl.load(table + 4) > slot, tokens, 0)
        q = _load(tl.multiple_of(query, 16) + at, wide & seen)
        g = _load(tl.multiple_of(gradient, 16) + at, wide & seen)
        share = tl.exp(tl.sum(q * k, 2, keep_dims=True) - _load(log_sum + stats, per_head & seen))
        to_score = share * (tl.sum(g * v, 2, keep_dims=True) - _load(delta + stats, per_head & seen))
        to_key += to_score * q
        to_value += share * g
        table += COLUMNS
    to_key = tl.sum(to_key, 1, keep_dims=True) * scale
    to_value = tl.sum(to_value, 1, keep_dims=True)
    tl.store(key_gradient + kv_at, to_key.to(key_gradient.dtype.element_ty), mask=narrow)
    tl.store(value_gradient + kv_at, to_value.to(value_gradient.dtype.element_ty), mask=narrow)
