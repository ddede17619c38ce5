"""A Triton kernel that writes a step's key and value into their slot and can rotate the key."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.depth_attention.tile_kernel import Start, load, place, turned
from blocks.kernels.tensors import in_heads


def append(key: Tensor, value: Tensor, key_slot: Tensor, value_slot: Tensor, turn: Tensor | None) -> None:
    """Write key and value [batch, sequence, kv_heads, head_dim], possibly strided, into dense slots.

    A `turn` [head_dim], cosine and sine of each pair in fp32, rotates the key.
    """
    keys, values = in_heads(key), in_heads(value)
    start = Start("append", torch.Size(key.shape), key.shape[2], key.device)
    tensors = (keys, values, key_slot, value_slot, key_slot if turn is None else turn)
    start(_append, *tensors, keys.stride(0), values.stride(0), TURN=turn is not None)


@triton.jit
def _append(
    key,
    value,
    key_slot,
    value_slot,
    turn,
    key_stride,
    value_stride,
    tokens,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    TURN: tl.constexpr,
):
    token, _, at, slot_at, there, _, _ = place(
        tokens, KV_HEADS, GROUP, DIM, BLOCK_TOKENS, BLOCK_GROUP, BLOCK_DIM
    )
    k = load(key + token * key_stride + at, there)
    if TURN:
        k = turned(k, turn, DIM, False)
    v = load(value + token * value_stride + at, there)
    tl.store(key_slot + slot_at, k.to(key_slot.dtype.element_ty), mask=there)
    tl.store(value_slot + slot_at, v.to(value_slot.dtype.element_ty), mask=there)
