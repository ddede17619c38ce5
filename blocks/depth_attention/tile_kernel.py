"""Helpers of the Triton kernels of depth attention: launching, and a program's tile of tokens."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from blocks.depth_attention.tiles import Pass, Shape, tile
from blocks.kernels.gpu import architecture, on, padded


class Start:
    """Launches one kernel on queries [batch, sequence, heads, head_dim] with a number of kv heads."""

    def __init__(self, kernel: Pass, shape: torch.Size, kv_heads: int, device: torch.device) -> None:
        batch, length, heads, head_dim = shape
        self.tokens, self.kv_heads, self.head_dim = batch * length, kv_heads, head_dim
        self.group, self.device = heads // kv_heads, device
        self.scale = head_dim**-0.5
        self.tile = tile(Shape(kernel, architecture(device), head_dim, self.group))

    def __call__(self, kernel: Any, *arguments: Any, **flags: Any) -> None:
        """Launch it with the arguments between its tensors and sizes; do nothing without tokens."""
        if not self.tokens:
            return
        # the kv heads of a tile are neighbors in the grid: together they read whole rows of a slot
        grid = (triton.cdiv(self.tokens, self.tile.tokens) * self.kv_heads,)
        with on(self.device):
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


@triton.jit
def place(
    tokens,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Return this program's tokens, offsets within query heads and within kv heads, and their masks.

    Tokens are int64, since offsets may exceed 2^31.
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
def load(pointers, mask):
    """Load as fp32, with 0 where masked."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_heads(pointers, mask):
    """Load one number per head, [tokens, group, 1], as fp32; pointers are broadcast to the mask."""
    # two-dimensional: Triton 3.6 repeats loads of a last dimension of 1 for each element per thread
    shape: tl.constexpr = [mask.shape[0], mask.shape[1]]
    pointers = tl.reshape(tl.broadcast_to(pointers, mask.shape), shape)
    flat = tl.load(pointers, mask=tl.reshape(mask, shape), other=0.0)
    return tl.expand_dims(flat.to(tl.float32), 2)


@triton.jit
def turned(x, turn, DIM: tl.constexpr, BACK: tl.constexpr):
    """Rotate the pairs of a block [tokens, group, head_dim], forward or back."""
    first, second = tl.split(tl.reshape(x, [x.shape[0], x.shape[1], x.shape[2] // 2, 2]))
    at = tl.arange(0, x.shape[2])[None, None, :]
    cos, sin = tl.split(tl.reshape(tl.load(turn + at, mask=at < DIM, other=0.0), [1, 1, x.shape[2] // 2, 2]))
    if BACK:
        sin = -sin
    turned = tl.join(first * cos - second * sin, first * sin + second * cos)
    return tl.reshape(turned, [x.shape[0], x.shape[1], x.shape[2]])
