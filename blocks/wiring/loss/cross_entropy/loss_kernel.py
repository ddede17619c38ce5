"""A Triton kernel for the cross-entropy of rows of logits, and the function that launches it.

A program processes one row: it reads the logits twice, the second time from the cache, and overwrites them
with their gradient. No other tensor of that size is allocated. All arithmetic is in fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from blocks.kernels.gpu import architecture, on
from blocks.wiring.loss.cross_entropy.reference import IGNORED
from blocks.wiring.loss.cross_entropy.tiles import Shape, tile


def cross_entropy(
    logits: Tensor, targets: Tensor, losses: Tensor, rows: Tensor | None = None, share: float = 1.0
) -> None:
    """Write the fp32 losses [tokens] of logits [tokens, vocab]; the loss of target -100 is 0.

    If `rows` [tokens, width], the inputs of the head, are given, the logits are overwritten by `share` times
    their gradient. At target -100 it is 0, and the row is set to 0 too, so that it adds nothing to a product
    even if it holds NaN. A target outside of the vocabulary has loss NaN. All tensors must be dense.
    """
    tokens, vocab = logits.shape
    if not tokens:
        return
    sizes = tile(Shape(architecture(logits.device), vocab))
    beside = losses if rows is None else rows
    with on(logits.device):
        _cross_entropy[(tokens,)](
            logits,
            targets,
            losses,
            beside,
            share,
            VOCAB=vocab,
            WIDTH=beside.shape[-1],
            IGNORED=IGNORED,
            GRADIENT=rows is not None,
            BLOCK=sizes.columns,
            num_warps=sizes.warps,
        )


@triton.jit
def _cross_entropy(
    logits,
    targets,
    losses,
    rows,
    share,
    VOCAB: tl.constexpr,
    WIDTH: tl.constexpr,
    IGNORED: tl.constexpr,
    GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * VOCAB
    at = tl.arange(0, BLOCK)
    target = tl.load(targets + row)
    kind = logits.dtype.element_ty
    if target == IGNORED:
        tl.store(losses + row, 0.0)
        if GRADIENT:
            nothing = tl.full([BLOCK], 0.0, kind)
            for first in range(0, VOCAB, BLOCK):
                tl.store(logits + first + at, nothing, mask=first + at < VOCAB)
            for first in range(0, WIDTH, BLOCK):
                tl.store(rows + row * WIDTH + first + at, nothing, mask=first + at < WIDTH)
    else:
        # read before other threads overwrite it: reductions over the program synchronize
        known = (target >= 0) & (target < VOCAB)
        picked = tl.load(logits + target, mask=known, other=float("nan")).to(tl.float32)
        most = tl.full([BLOCK], -1e30, tl.float32)
        total = tl.full([BLOCK], 0.0, tl.float32)
        for first in range(0, VOCAB, BLOCK):
            there = first + at < VOCAB
            x = tl.load(logits + first + at, mask=there, other=float("-inf")).to(tl.float32)
            higher = tl.maximum(most, x)
            total = total * tl.exp(most - higher) + tl.exp(x - higher)
            most = higher
        highest = tl.max(most, 0)
        log_sum = highest + tl.log(tl.sum(total * tl.exp(most - highest), 0))
        tl.store(losses + row, log_sum - picked)
        if GRADIENT:
            for first in range(0, VOCAB, BLOCK):
                there = first + at < VOCAB
                x = tl.load(logits + first + at, mask=there, other=float("-inf")).to(tl.float32)
                made = tl.exp(x - log_sum) - tl.where(first + at == target, 1.0, 0.0)
                tl.store(logits + first + at, (made * share).to(kind), mask=there)
