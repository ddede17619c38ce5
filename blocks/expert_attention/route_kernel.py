"""Triton kernels for routing, from logits to sorted rows, and the functions that launch them.

There are three launches without synchronization. `_choose` processes a tile of at most 8 tokens: top-k of
biased logits, their scores, and for each expert the tokens that chose it, as bits of a byte. `_scan` computes
prefix sums of bit counts over the tiles, which give the first row of each expert in each tile. `_place`
assigns a row to every choice, sorted by expert, then token, and divides its score by the sum of the token's
scores. No two programs write to the same place, so the order is that of a stable sort and deterministic. With
two launches, each `_place` program would sum the bits of all tiles, which is quadratic in the tokens.

A token has `active` choices, best first; `token * active + n` is the index of its choice n. Among equal
biased logits the expert with the lower index is chosen; NaN is the largest value, as in torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.expert_attention.tiles import Pass, Shape, Tile, tile
from blocks.kernels.gpu import architecture, on


class Routed(NamedTuple):
    """The results of routing.

    Attributes:
        weights: renormalized sigmoids of the chosen experts [tokens, active], fp32.
        indices: the chosen experts [tokens, active], int32.
        totals: the divisors of the weights [tokens], fp32.
        order: the choice of each row [tokens * active], int32.
        place: the row of each choice [tokens, active], int32; the inverse of `order`.
        ends: the row after the last of each expert [experts], int32.
        counts: the number of tokens that chose each expert [experts], int32.
    """

    weights: Tensor
    indices: Tensor
    totals: Tensor
    order: Tensor
    place: Tensor
    ends: Tensor
    counts: Tensor


def route(products: Tensor, balance: Tensor, scale: float, active: int, load: Tensor | None = None) -> Routed:
    """Choose `active` experts per token by products * scale + balance; sort the choices by expert.

    products: [tokens, experts], fp32; balance: [experts]; load: [experts], incremented in place.
    """
    tokens, experts = products.shape
    products, balance = products.contiguous(), balance.contiguous()
    weights = torch.empty((tokens, active), dtype=torch.float32, device=products.device)
    totals = torch.empty(tokens, dtype=torch.float32, device=products.device)
    indices, place = (_integers(products, tokens, active) for _ in range(2))
    order, ends, counts = (_integers(products, size) for size in (tokens * active, experts, experts))
    choose = _tile("choose", products)
    tiles = triton.cdiv(tokens, choose.rows)
    bits = torch.empty((tiles, experts), dtype=torch.uint8, device=products.device)
    before = _integers(products, tiles, experts)
    sizes: dict[str, Any] = {"EXPERTS": experts, "ACTIVE": active}
    with on(products.device):
        if tokens:
            _choose[(tiles,)](
                *(products, balance, weights, indices, totals, bits, scale, tokens),
                **sizes,
                BLOCK_TOKENS=choose.rows,
                BLOCK_EXPERTS=choose.columns,
                num_warps=choose.warps,
                # without rounding before the bias is added, ranks could differ from the reference
                enable_fp_fusion=False,
            )
        scan = _tile("scan", products)
        _scan[(triton.cdiv(experts, scan.columns),)](
            *(bits, before, counts, counts if load is None else load, tiles),
            EXPERTS=experts,
            LOAD=load is not None,
            BLOCK_TILES=scan.rows,
            BLOCK_EXPERTS=scan.columns,
            num_warps=scan.warps,
        )
        put = _tile("place", products)
        _place[(max(1, triton.cdiv(tokens * active, put.rows)),)](
            *(weights, indices, totals, bits, before, counts, place, order, ends, tokens * active),
            **sizes,
            TILE=choose.rows,
            BLOCK_CHOICES=put.rows,
            BLOCK_EXPERTS=put.columns,
            num_warps=put.warps,
        )
    return Routed(weights, indices, totals, order, place, ends, counts)


def route_backward(
    gradient: Tensor, weights: Tensor, indices: Tensor, totals: Tensor, scale: float, experts: int
) -> Tensor:
    """Return the gradient of the products [tokens, experts] in fp32 from that of the weights."""
    tokens, active = weights.shape
    made = torch.empty((tokens, experts), dtype=torch.float32, device=weights.device)
    unchoose = _tile("unchoose", made)
    if tokens:
        with on(made.device):
            _unchoose[(triton.cdiv(tokens, unchoose.rows),)](
                *(gradient.contiguous(), weights, indices, totals, made, scale, tokens),
                EXPERTS=experts,
                ACTIVE=active,
                BLOCK_TOKENS=unchoose.rows,
                BLOCK_EXPERTS=unchoose.columns,
                num_warps=unchoose.warps,
            )
    return made


def _tile(kernel: Pass, products: Tensor) -> Tile:
    return tile(Shape(kernel, architecture(products.device), products.shape[1]))


def _integers(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.int32, device=like.device)


@triton.jit
def _choose(
    products,
    balance,
    weights,
    indices,
    totals,
    bits,
    scale,
    tokens,
    EXPERTS: tl.constexpr,
    ACTIVE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_EXPERTS: tl.constexpr,
):
    LEAST: tl.constexpr = -2147483648
    tile = tl.program_id(0).to(tl.int64)
    member = tl.arange(0, BLOCK_TOKENS)[:, None]
    token = tile * BLOCK_TOKENS + member
    expert = tl.arange(0, BLOCK_EXPERTS)[None, :]
    there, real = token < tokens, expert < EXPERTS
    logit = tl.load(products + token * EXPERTS + expert, mask=there & real, other=0.0) * scale
    biased = logit + tl.load(balance + expert, mask=real, other=0.0).to(tl.float32)
    # integers in the order of the floats: taken experts are below -inf, and NaN is comparable
    key = biased.to(tl.int32, bitcast=True)
    key = tl.where(biased != biased, 2147483647, key ^ ((key >> 31) & 2147483647))
    key = tl.where(real, key, LEAST)
    total = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    for number in range(ACTIVE):
        # each reduction is one warp instruction; a combined argmax is not
        most = tl.max(key, 1, keep_dims=True)
        best = tl.min(tl.where(key == most, expert, BLOCK_EXPERTS), 1, keep_dims=True)
        key = tl.where(expert == best, LEAST, key)
        chosen = tl.load(products + token * EXPERTS + best, mask=there, other=0.0) * scale
        score = 1 / (1 + tl.exp(-chosen))
        total += score
        tl.store(indices + token * ACTIVE + number, best, mask=there)
        tl.store(weights + token * ACTIVE + number, score, mask=there)
    tl.store(totals + token, total, mask=there)
    taken = (key == LEAST) & real & there
    members = tl.sum(tl.where(taken, 1 << member, 0), 0, keep_dims=True)
    tl.store(bits + tile * EXPERTS + expert, members.to(tl.uint8), mask=real)


@triton.jit
def _number_of(bits):
    """Return the number of set bits of 8."""
    bits -= (bits >> 1) & 0x55
    bits = (bits & 0x33) + ((bits >> 2) & 0x33)
    return (bits + (bits >> 4)) & 15


@triton.jit(do_not_specialize=["tiles"])
def _scan(
    bits,
    before,
    counts,
    load,
    tiles,
    EXPERTS: tl.constexpr,
    LOAD: tl.constexpr,
    BLOCK_TILES: tl.constexpr,
    BLOCK_EXPERTS: tl.constexpr,
):
    expert = tl.program_id(0) * BLOCK_EXPERTS + tl.arange(0, BLOCK_EXPERTS)[None, :]
    real = expert < EXPERTS
    total = tl.full([1, BLOCK_EXPERTS], 0, tl.int32)
    for first in range(0, tiles, BLOCK_TILES):
        tile = first + tl.arange(0, BLOCK_TILES)[:, None]
        at, there = tile.to(tl.int64) * EXPERTS + expert, (tile < tiles) & real
        count = _number_of(tl.load(bits + at, mask=there, other=0).to(tl.int32))
        tl.store(before + at, total + tl.cumsum(count, 0) - count, mask=there)
        total += tl.sum(count, 0, keep_dims=True)
    tl.store(counts + expert, total, mask=real)
    if LOAD:
        so_far = tl.load(load + expert, mask=real, other=0.0)
        tl.store(load + expert, (so_far + total).to(load.dtype.element_ty), mask=real)


@triton.jit
def _place(
    weights,
    indices,
    totals,
    bits,
    before,
    counts,
    place,
    order,
    ends,
    choices,
    EXPERTS: tl.constexpr,
    ACTIVE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_CHOICES: tl.constexpr,
    BLOCK_EXPERTS: tl.constexpr,
):
    expert = tl.arange(0, BLOCK_EXPERTS)
    count = tl.load(counts + expert, mask=expert < EXPERTS, other=0)
    end = tl.cumsum(count, 0)
    if tl.program_id(0) == 0:
        tl.store(ends + expert, end, mask=expert < EXPERTS)
    choice = tl.program_id(0).to(tl.int64) * BLOCK_CHOICES + tl.arange(0, BLOCK_CHOICES)
    there = choice < choices
    token = choice // ACTIVE
    score = tl.load(weights + choice, mask=there, other=0.0)
    # correctly rounded division: the weight of a single expert is exactly 1
    share = tl.div_rn(score, tl.load(totals + token, mask=there, other=1.0))
    tl.store(weights + choice, share, mask=there)
    chosen = tl.load(indices + choice, mask=there, other=0)
    at = token // TILE * EXPERTS + chosen
    below = (1 << (token % TILE).to(tl.int32)) - 1
    earlier = tl.load(bits + at, mask=there, other=0).to(tl.int32) & below
    row = tl.gather(end - count, chosen, 0) + tl.load(before + at, mask=there, other=0) + _number_of(earlier)
    tl.store(place + choice, row, mask=there)
    tl.store(order + row, choice.to(tl.int32), mask=there)


@triton.jit
def _unchoose(
    gradient,
    weights,
    indices,
    totals,
    made,
    scale,
    tokens,
    EXPERTS: tl.constexpr,
    ACTIVE: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_EXPERTS: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)[:, None]
    expert = tl.arange(0, BLOCK_EXPERTS)[None, :]
    there = token < tokens
    total = tl.load(totals + token, mask=there, other=0.0)
    mean = tl.full([BLOCK_TOKENS, 1], 0.0, tl.float32)
    for number in range(ACTIVE):
        at = token * ACTIVE + number
        mean += tl.load(weights + at, mask=there, other=0.0) * tl.load(gradient + at, mask=there, other=0.0)
    of_logits = tl.full([BLOCK_TOKENS, BLOCK_EXPERTS], 0.0, tl.float32)
    for number in range(ACTIVE):
        at = token * ACTIVE + number
        weight = tl.load(weights + at, mask=there, other=0.0)
        outward = tl.load(gradient + at, mask=there, other=0.0) - mean
        to_logit = outward * weight * (1 - weight * total)
        of_logits = tl.where(expert == tl.load(indices + at, mask=there, other=-1), to_logit, of_logits)
    tl.store(made + token * EXPERTS + expert, of_logits * scale, mask=there & (expert < EXPERTS))
