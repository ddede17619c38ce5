"""A Triton kernel for the first product of experts that gathers its rows and applies the gate.

A program computes one tile of an expert's rows: it reads the token of each row, multiplies it by gate and up,
and writes both for the backward pass and silu(gate) * up * weight for the second product. Rows are not copied
first. A program finds its expert from the ends of the experts' rows on the device; surplus programs return.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.expert_attention.tiles import ProductShape, gather_tile
from blocks.kernels.gpu import architecture, on, padded


def gate_up(
    x: Tensor, weights: Tensor, order: Tensor, ends: Tensor, matrices: Tensor
) -> tuple[Tensor, Tensor]:
    """Return gate and up of each row [rows, 2 * hidden], and silu(gate) * up * weight [rows, hidden].

    x: [tokens, width]; weights: [tokens, active]; order: the choice of each row [rows]; ends: the row after
    the last of each expert [experts]; matrices: [experts, width, 2 * hidden], in the dtype of the results.
    """
    experts, width, hidden = matrices.shape[0], matrices.shape[1], matrices.shape[2] // 2
    rows = len(order)
    x = x if x.stride(1) == 1 else x.contiguous()
    both = torch.empty((rows, 2 * hidden), dtype=matrices.dtype, device=x.device)
    inner = torch.empty((rows, hidden), dtype=matrices.dtype, device=x.device)
    sizes = gather_tile(ProductShape(architecture(x.device), width, hidden, matrices.element_size()))
    # each expert may have one partly filled tile
    tiles = triton.cdiv(rows, sizes.rows) + experts
    if rows:
        with on(x.device):
            _gate_up[(tiles * triton.cdiv(hidden, sizes.columns),)](
                x,
                weights,
                order,
                ends,
                matrices.contiguous(),
                both,
                inner,
                x.stride(0),
                WIDTH=width,
                HIDDEN=hidden,
                ACTIVE=weights.shape[1],
                EXPERTS=experts,
                BLOCK_EXPERTS=padded(experts),
                BLOCK_ROWS=sizes.rows,
                BLOCK_COLUMNS=sizes.columns,
                BLOCK_WIDTH=sizes.width,
                num_warps=sizes.warps,
                num_stages=sizes.stages,
            )
    return both, inner


@triton.jit
def _gate_up(
    x,
    weights,
    order,
    ends,
    matrices,
    both,
    inner,
    stride,
    WIDTH: tl.constexpr,
    HIDDEN: tl.constexpr,
    ACTIVE: tl.constexpr,
    EXPERTS: tl.constexpr,
    BLOCK_EXPERTS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
    BLOCK_WIDTH: tl.constexpr,
):
    # tiles of the same rows are neighbors in the grid
    across: tl.constexpr = (HIDDEN + BLOCK_COLUMNS - 1) // BLOCK_COLUMNS
    tile, column = tl.program_id(0) // across, tl.program_id(0) % across
    each = tl.arange(0, BLOCK_EXPERTS)
    end = tl.load(ends + each, mask=each < EXPERTS, other=0)
    start = tl.load(ends + each - 1, mask=(each > 0) & (each < EXPERTS), other=0)
    tiles = tl.where(each < EXPERTS, (end - start + BLOCK_ROWS - 1) // BLOCK_ROWS, 0)
    expert = tl.sum((tl.cumsum(tiles, 0) <= tile).to(tl.int32), 0)
    if expert < EXPERTS:
        own = each == expert
        before = tl.sum(tl.where(each < expert, tiles, 0), 0)
        first = tl.sum(tl.where(own, start, 0), 0) + (tile - before) * BLOCK_ROWS
        row = first + tl.arange(0, BLOCK_ROWS)
        there = row < tl.sum(tl.where(own, end, 0), 0)
        choice = tl.load(order + row, mask=there, other=0)
        token, row = (choice // ACTIVE).to(tl.int64), row.to(tl.int64)
        k = tl.arange(0, BLOCK_WIDTH)
        j = column * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
        from_x = x + token[:, None] * stride + k[None, :]
        matrix = matrices + expert.to(tl.int64) * (WIDTH * 2 * HIDDEN)
        matrix += k[:, None] * (2 * HIDDEN) + j[None, :]
        inside = (j < HIDDEN)[None, :]
        kind = matrices.dtype.element_ty
        # a factor that is cast must be the second one, as in the gradients of weights
        SWAP: tl.constexpr = x.dtype.element_ty != matrices.dtype.element_ty
        if SWAP:
            gate = tl.full([BLOCK_COLUMNS, BLOCK_ROWS], 0.0, tl.float32)
        else:
            gate = tl.full([BLOCK_ROWS, BLOCK_COLUMNS], 0.0, tl.float32)
        up = gate
        for done in tl.range(0, WIDTH, BLOCK_WIDTH):
            left = k < WIDTH - done
            a = tl.load(from_x, mask=there[:, None] & left[None, :], other=0.0).to(kind)
            some = left[:, None] & inside
            to_gate = tl.load(matrix, mask=some, other=0.0)
            to_up = tl.load(matrix + HIDDEN, mask=some, other=0.0)
            if SWAP:
                a = tl.trans(a)
                gate = tl.dot(tl.trans(to_gate), a, gate, input_precision="ieee")
                up = tl.dot(tl.trans(to_up), a, up, input_precision="ieee")
            else:
                gate = tl.dot(a, to_gate, gate, input_precision="ieee")
                up = tl.dot(a, to_up, up, input_precision="ieee")
            from_x += BLOCK_WIDTH
            matrix += BLOCK_WIDTH * 2 * HIDDEN
        if SWAP:
            gate, up = tl.trans(gate), tl.trans(up)
        # apply the gate to the rounded values that the backward pass reads
        gate, up = gate.to(kind), up.to(kind)
        some = there[:, None] & inside
        at = both + row[:, None] * (2 * HIDDEN) + j[None, :]
        tl.store(at, gate, mask=some)
        tl.store(at + HIDDEN, up, mask=some)
        gate, up = gate.to(tl.float32), up.to(tl.float32)
        weight = tl.load(weights + choice, mask=there, other=0.0)[:, None]
        made = gate / (1 + tl.exp(-gate)) * up * weight
        tl.store(inner + row[:, None] * HIDDEN + j[None, :], made.to(kind), mask=some)
