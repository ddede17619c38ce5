"""A Triton kernel for the gradients of experts' weights from the rows of several steps at once.

A program computes one tile of an expert's gradient: it iterates over the expert's rows of each step, gathers
one factor from tokens, and adds the result once to the fp32 sum. Rows are not copied first, sums are not
rounded between steps, and no two programs write to the same place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from blocks.expert_attention.tiles import PRODUCT_STEPS, ProductShape, product_tile
from blocks.kernels.gpu import architecture, on


class Rows(NamedTuple):
    """The two factors of the products of a step, and the rows of each expert.

    Attributes:
        left: [rows, n], or [tokens, n] if gathered.
        right: [rows, m], or [tokens, m] if gathered.
        order: the choice of each row [rows], int32.
        ends: the row after the last of each expert [experts], int32.
    """

    left: Tensor
    right: Tensor
    order: Tensor
    ends: Tensor


def add_products(total: Tensor, steps: Sequence[Rows], active: int, left: bool, add: bool) -> None:
    """Write the sum of left.T @ right over each expert's rows of the steps to total [experts, n, m], fp32.

    With `add` it is added to `total`. There are at most `PRODUCT_STEPS` steps, of equal layout. With `left`
    the left factor is gathered, one token for `active` rows, else the right factor.
    """
    experts, n, m = total.shape
    dense = [Rows(_in_rows(left), _in_rows(right), order, ends) for left, right, order, ends in steps]
    # products are in the dtype of the factor that is not gathered
    narrow = dense[0].right if left else dense[0].left
    sizes = product_tile(ProductShape(architecture(total.device), n, m, narrow.element_size()))
    missing: list[Any] = [None] * (4 * (PRODUCT_STEPS - len(dense)))
    grid = (experts * triton.cdiv(n, sizes.left) * triton.cdiv(m, sizes.right),)
    with on(total.device):
        _add_products[grid](
            total,
            *(each for step in dense for each in step),
            *missing,
            dense[0].left.stride(0),
            dense[0].right.stride(0),
            LEFT=n,
            RIGHT=m,
            ACTIVE=active,
            STEPS=len(dense),
            ADD=add,
            GATHER_LEFT=left,
            BLOCK_LEFT=sizes.left,
            BLOCK_RIGHT=sizes.right,
            BLOCK_ROWS=sizes.rows,
            num_warps=sizes.warps,
            num_stages=sizes.stages,
        )


def _in_rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


@triton.jit
def _one(
    made,
    left,
    right,
    order,
    ends,
    expert,
    at_left,
    at_right,
    left_stride,
    right_stride,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    ACTIVE: tl.constexpr,
    GATHER_LEFT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    SWAP: tl.constexpr,
):
    """Add the products of the rows of one step; with SWAP, to the transposed sum."""
    first = tl.load(ends + expert - 1, mask=expert > 0, other=0)
    end = tl.load(ends + expert)
    for start in tl.range(first, end, BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        there = row < end
        token = (tl.load(order + row, mask=there, other=0) // ACTIVE).to(tl.int64)
        row = row.to(tl.int64)
        if GATHER_LEFT:
            from_left, from_right = token, row
        else:
            from_left, from_right = row, token
        a = tl.load(
            left + from_left[:, None] * left_stride + at_left[None, :],
            mask=there[:, None] & (at_left < LEFT)[None, :],
            other=0.0,
        )
        b = tl.load(
            right + from_right[:, None] * right_stride + at_right[None, :],
            mask=there[:, None] & (at_right < RIGHT)[None, :],
            other=0.0,
        )
        if GATHER_LEFT:
            a = a.to(b.dtype)
        else:
            b = b.to(a.dtype)
        if SWAP:
            made = tl.dot(tl.trans(b), a, made, input_precision="ieee")
        else:
            made = tl.dot(tl.trans(a), b, made, input_precision="ieee")
    return made


@triton.jit
def _add_products(
    total,
    left_0,
    right_0,
    order_0,
    ends_0,
    left_1,
    right_1,
    order_1,
    ends_1,
    left_2,
    right_2,
    order_2,
    ends_2,
    left_3,
    right_3,
    order_3,
    ends_3,
    left_stride,
    right_stride,
    LEFT: tl.constexpr,
    RIGHT: tl.constexpr,
    ACTIVE: tl.constexpr,
    STEPS: tl.constexpr,
    ADD: tl.constexpr,
    GATHER_LEFT: tl.constexpr,
    BLOCK_LEFT: tl.constexpr,
    BLOCK_RIGHT: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):
    # an expert's tiles are neighbors in the grid: they read the same rows
    across: tl.constexpr = (RIGHT + BLOCK_RIGHT - 1) // BLOCK_RIGHT
    tiles: tl.constexpr = across * ((LEFT + BLOCK_LEFT - 1) // BLOCK_LEFT)
    expert, tile = tl.program_id(0) // tiles, tl.program_id(0) % tiles
    i = (tile // across) * BLOCK_LEFT + tl.arange(0, BLOCK_LEFT)
    j = (tile % across) * BLOCK_RIGHT + tl.arange(0, BLOCK_RIGHT)
    # a factor that is cast must be the second of a tensor core product: the first would be loaded element by
    # element, directly into its register layout
    SWAP: tl.constexpr = GATHER_LEFT and left_0.dtype.element_ty != right_0.dtype.element_ty
    if SWAP:
        made = tl.full([BLOCK_RIGHT, BLOCK_LEFT], 0.0, tl.float32)
    else:
        made = tl.full([BLOCK_LEFT, BLOCK_RIGHT], 0.0, tl.float32)
    made = _one(
        made, left_0, right_0, order_0, ends_0, expert, i, j, left_stride, right_stride,
        LEFT, RIGHT, ACTIVE, GATHER_LEFT, BLOCK_ROWS, SWAP,
    )  # fmt: skip
    if STEPS > 1:
        made = _one(
            made, left_1, right_1, order_1, ends_1, expert, i, j, left_stride, right_stride,
            LEFT, RIGHT, ACTIVE, GATHER_LEFT, BLOCK_ROWS, SWAP,
        )  # fmt: skip
    if STEPS > 2:
        made = _one(
            made, left_2, right_2, order_2, ends_2, expert, i, j, left_stride, right_stride,
            LEFT, RIGHT, ACTIVE, GATHER_LEFT, BLOCK_ROWS, SWAP,
        )  # fmt: skip
    if STEPS > 3:
        made = _one(
            made, left_3, right_3, order_3, ends_3, expert, i, j, left_stride, right_stride,
            LEFT, RIGHT, ACTIVE, GATHER_LEFT, BLOCK_ROWS, SWAP,
        )  # fmt: skip
    if SWAP:
        made = tl.trans(made)
    at = total + expert.to(tl.int64) * (LEFT * RIGHT) + i[:, None] * RIGHT + j[None, :]
    inside = (i < LEFT)[:, None] & (j < RIGHT)[None, :]
    if ADD:
        made += tl.load(at, mask=inside, other=0.0)
    tl.store(at, made, mask=inside)
