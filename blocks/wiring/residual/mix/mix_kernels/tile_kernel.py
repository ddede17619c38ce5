"""Helpers of the Triton kernels of residual mixes: launching, and a program's tile of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from blocks.kernels.gpu import architecture, on, padded
from blocks.wiring.residual.mix.mix_kernels.tiles import Pass, Shape, tile


class Launch:
    """Launches one kernel on values like `start` [batch, sequence, width].

    Attributes:
        tiles: the number of tiles of tokens.
    """

    def __init__(self, kernel: Pass, start: Tensor, heads: int) -> None:
        batch, length, self.width = start.shape
        self.tokens, self.heads, self.device = batch * length, heads, start.device
        self.tile = tile(Shape(kernel, architecture(start.device), heads, self.width))
        self.tiles = triton.cdiv(self.tokens, self.tile.tokens)

    def own(self, given: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Return the start and the partial, dense."""
        return given[0].contiguous(), given[1].contiguous() if len(given) > 1 else None

    def __call__(self, programs: int | tuple[int, int], kernel: Any, *arguments: Any, **flags: Any) -> None:
        """Launch it with the arguments before its sizes; do nothing without tokens."""
        if not self.tokens:
            return
        grid = programs if isinstance(programs, tuple) else (programs,)
        with on(self.device):
            kernel[grid](
                *arguments,
                self.tokens * self.width,
                self.tokens,
                WIDTH=self.width,
                HEADS=self.heads,
                BLOCK_TOKENS=self.tile.tokens,
                BLOCK_HEADS=padded(self.heads),
                BLOCK_DIM=padded(self.width // self.heads),
                num_warps=self.tile.warps,
                **flags,
            )


@triton.jit
def place(
    program,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    """Return the tokens of a tile, its heads, the offsets of elements within a value, and their mask.

    Tokens are int64, since offsets may exceed 2^31.
    """
    token = program.to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)[:, None, None]
    head = tl.arange(0, BLOCK_HEADS)[None, :, None]
    element = tl.arange(0, BLOCK_DIM)[None, None, :]
    dim: tl.constexpr = WIDTH // HEADS
    return token, head, head * dim + element, (head < HEADS) & (element < dim)


@triton.jit
def load(pointers, mask):
    """Load as fp32, with 0 where masked."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_heads(pointers, mask):
    """Load one number per head, [tokens, heads, 1], as fp32."""
    # two-dimensional: Triton 3.6 repeats loads of a last dimension of 1 for each element per thread
    shape: tl.constexpr = [mask.shape[0], mask.shape[1]]
    flat = tl.load(tl.reshape(pointers, shape), mask=tl.reshape(mask, shape), other=0.0)
    return tl.expand_dims(flat.to(tl.float32), 2)


@triton.jit
def store(pointers, value, mask):
    """Store in the dtype of the memory."""
    tl.store(pointers, value.to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def scored(value, query, eps, WIDTH: tl.constexpr):
    """Return query . RMSNorm(value) of each head, and 1 / RMS of the value."""
    scale = tl.rsqrt(tl.sum(tl.sum(value * value, 2, keep_dims=True), 1, keep_dims=True) / WIDTH + eps)
    return tl.sum(query * value, 2, keep_dims=True) * scale, scale
