"""Triton kernels for sums of values with given weights, and the functions that launch them.

A program processes whole values of a tile of tokens in fp32, as blocks [tokens, heads, width / heads], and
reads each value once. Weights are indexed by distance: 0 is the latest value. Their gradients are written per
token and summed afterwards, so that results do not depend on the order of programs.

Values are dense: the start and the partial [batch, sequence, width], slots [slots, batch, sequence, width].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from blocks.kernels.tensors import in_heads
from blocks.wiring.residual.mix.mix_kernels.tile_kernel import Launch, load, load_heads, place, store


def weigh_forward(own: Sequence[Tensor], slots: Tensor, static: Tensor, dynamic: Tensor | None) -> Tensor:
    """Return the weighted sum of values, in the shape and dtype of the start.

    `own` are the start and the partial, if there is one. Weights are `static` [most, heads] by distance, plus
    `dynamic` [batch, sequence, most, heads] if given.
    """
    launch = Launch("weigh", own[0], static.shape[1])
    start, partial = launch.own(own)
    out = torch.empty_like(start)
    tensors = (start, partial, slots, *_weights(static, dynamic), out)
    launch(launch.tiles, _weigh, *tensors, len(slots))
    return out


def weigh_backward(
    own: Sequence[Tensor],
    slots: Tensor,
    static: Tensor,
    dynamic: Tensor | None,
    gradient: Tensor,
    to_slots: Tensor,
    add: bool,
) -> list[Tensor]:
    """Return the gradients of each token's weights, [batch, sequence, most, heads] in fp32, and of `own`.

    The gradients of slots are written to `to_slots`, or with `add` added to it.
    """
    launch = Launch("weigh_backward", own[0], static.shape[1])
    start, partial = launch.own(own)
    to_weights = torch.empty((*start.shape[:2], *static.shape), dtype=torch.float32, device=start.device)
    made = [torch.empty_like(each) for each in (start, partial) if each is not None]
    tensors = (start, partial, slots, *_weights(static, dynamic), gradient.contiguous(), *launch.own(made))
    sizes = (len(slots), len(static))
    launch(launch.tiles, _weigh_backward, *tensors, to_slots, to_weights, *sizes, ADD=add)
    return [to_weights, *made]


def _weights(static: Tensor, dynamic: Tensor | None) -> tuple[Tensor, Tensor | None, int]:
    """Return both weights, and the stride between tokens of the second."""
    rows = None if dynamic is None else in_heads(dynamic)
    return static.contiguous(), rows, 0 if rows is None else rows.stride(0)


@triton.jit
def _share(static, dynamic, head, there, token, dynamic_stride, ago, HEADS: tl.constexpr):
    """Return the weights of a value by its distance, [tokens, heads, 1]."""
    at = ago * HEADS + head
    share = load_heads(static + at, head < HEADS)
    if dynamic is not None:
        share += load_heads(dynamic + token * dynamic_stride + at, there)
    return share


@triton.jit(do_not_specialize=["reads"])
def _weigh(
    start,
    partial,
    slots,
    static,
    dynamic,
    dynamic_stride,
    out,
    reads,
    slot_stride,
    tokens,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
):
    token, head, at, inside = place(tl.program_id(0), WIDTH, HEADS, BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM)
    there, per_head = inside & (token < tokens), (token < tokens) & (head < HEADS)
    at_token = token * WIDTH + at
    ago = reads
    if partial is not None:
        ago += 1
    total = load(start + at_token, there)
    total *= _share(static, dynamic, head, per_head, token, dynamic_stride, ago, HEADS)
    for _ in tl.range(0, reads):
        ago -= 1
        share = _share(static, dynamic, head, per_head, token, dynamic_stride, ago, HEADS)
        total += share * load(slots + at_token, there)
        slots += slot_stride
    if partial is not None:
        share = _share(static, dynamic, head, per_head, token, dynamic_stride, 0, HEADS)
        total += share * load(partial + at_token, there)
    store(out + at_token, total, there)


@triton.jit(do_not_specialize=["reads", "most"])
def _weigh_backward(
    start,
    partial,
    slots,
    static,
    dynamic,
    dynamic_stride,
    gradient,
    to_start,
    to_partial,
    to_slots,
    to_weights,
    reads,
    most,
    slot_stride,
    tokens,
    WIDTH: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_HEADS: tl.constexpr,
    BLOCK_DIM: tl.constexpr,
    ADD: tl.constexpr,
):
    token, head, at, inside = place(tl.program_id(0), WIDTH, HEADS, BLOCK_TOKENS, BLOCK_HEADS, BLOCK_DIM)
    there, per_head = inside & (token < tokens), (token < tokens) & (head < HEADS)
    at_token = token * WIDTH + at
    to_weights += token * (most * HEADS) + head
    g = load(gradient + at_token, there)
    ago = reads
    if partial is not None:
        ago += 1
    nothing = tl.full([BLOCK_TOKENS, BLOCK_HEADS, 1], 0.0, tl.float32)
    for unread in tl.range(ago + 1, most):
        tl.store(to_weights + unread * HEADS, nothing, mask=per_head)
    share = _share(static, dynamic, head, per_head, token, dynamic_stride, ago, HEADS)
    store(to_start + at_token, share * g, there)
    to_share = tl.sum(g * load(start + at_token, there), 2, keep_dims=True)
    tl.store(to_weights + ago * HEADS, to_share, mask=per_head)
    for _ in tl.range(0, reads):
        ago -= 1
        share = _share(static, dynamic, head, per_head, token, dynamic_stride, ago, HEADS)
        made = share * g
        to_share = tl.sum(g * load(slots + at_token, there), 2, keep_dims=True)
        if ADD:
            made += load(to_slots + at_token, there)
        store(to_slots + at_token, made, there)
        tl.store(to_weights + ago * HEADS, to_share, mask=per_head)
        slots += slot_stride
        to_slots += slot_stride
    if partial is not None:
        share = _share(static, dynamic, head, per_head, token, dynamic_stride, 0, HEADS)
        store(to_partial + at_token, share * g, there)
        to_share = tl.sum(g * load(partial + at_token, there), 2, keep_dims=True)
        tl.store(to_weights, to_share, mask=per_head)
