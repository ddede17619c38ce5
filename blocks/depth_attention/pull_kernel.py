"""A Triton kernel that pulls the gradients of one slot from all steps that read it, and its launch.

Tiles and layouts are those of `kernel.py`, whose backward kernel records each read in a row of a table.
Queries are rotated again, which saves writing a rotated copy of `H d e` bytes per token and step.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.depth_attention.kernel import COLUMNS
from blocks.depth_attention.tile_kernel import Start, load, load_heads, place, turned
from blocks.kernels.tensors import in_place


class Queries(NamedTuple):
    """Properties that all queries of a table share.

    Attributes:
        turned: whether they are rotated, each by the turn in its row.
        apart: a power of two, at most 8, that divides the strides between tokens.
        bias: the slopes of one of them, if all have a bias; each has the address of its own in its row.
    """

    turned: bool = False
    apart: int = 1
    bias: Tensor | None = None


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
    keys, values = in_place(to_key), in_place(to_value)
    shape = torch.Size((*key.shape[:2], heads, key.shape[3]))
    start = Start("pull", shape, key.shape[2], key.device)
    tensors = (key, value, keys, values, table, table if turn is None else turn, queries.bias)
    flags = {"TURN": turn is not None, "QUERIES": queries.turned, "APART": queries.apart}
    flags["BIAS"] = queries.bias is not None
    strides = (keys.stride(0), values.stride(0))
    start(_pull, *tensors, rows, slot, start.scale, *strides, COLUMNS=COLUMNS, **flags)
    return to_key, to_value


@triton.jit(do_not_specialize=["rows", "slot"])
def _pull(
    key,
    value,
    key_gradient,
    value_gradient,
    table,
    turn,
    bias,
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
    BIAS: tl.constexpr,
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
        score = tl.sum(q * k, 2, keep_dims=True)
        if BIAS:
            slopes = tl.load(table + 7).to(tl.pointer_type(bias.dtype.element_ty))
            # 0 for a read that did not see the slot, whose distance is negative
            score -= load_heads(slopes + head, per_head & seen) * (tl.load(table + 4) - 1 - slot)
        share = tl.exp(score - load_heads(log_sum + stats, per_head & seen))
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
