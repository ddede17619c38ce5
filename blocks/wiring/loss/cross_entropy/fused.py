"""The head and the cross-entropy by chunks, as in `by_chunks.py`, with a Triton kernel for the softmax.

The kernel replaces the logits of a chunk by their gradient in place. The product for the gradient of the
weight accumulates in fp32. On a CPU, to which a model planned for a GPU may be moved, plain PyTorch runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blocks.kernels.products import add_product
from blocks.kernels.tensors import fits
from blocks.wiring.loss.cross_entropy import by_chunks, loss_kernel, steps_by_chunks
from blocks.wiring.loss.cross_entropy.chunks import chunk_tokens


def head_loss(x: Tensor, targets: Tensor | None, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Do the same as `by_chunks.head_loss`; x: [batch, sequence, width], weight: [vocab, width]."""
    return by_chunks.head_loss(x, targets, weight, sums if fits(x, weight) else by_chunks.sums)


def steps_head_loss(
    states: Sequence[Tensor], targets: Tensor, weight: Tensor, weighting: str
) -> tuple[Tensor, Tensor]:
    """Do the same as `steps_by_chunks.steps_head_loss`."""
    way = sums if fits(*states, weight) else by_chunks.sums
    return steps_by_chunks.steps_head_loss(states, targets, weight, weighting, way)


def sums(
    rows: Tensor,
    weight: Tensor,
    targets: Tensor,
    dtype: torch.dtype,
    wanted: tuple[bool, ...],
    share: float = 1.0,
    to_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Do the same as `by_chunks.sums`. The gradient of a chunk's rows overwrites their cast copy."""
    tokens, (vocab, width) = len(rows), weight.shape
    losses = torch.empty(tokens, dtype=torch.float32, device=rows.device)
    size = chunk_tokens(vocab, dtype.itemsize)
    targets = targets.contiguous()
    # autocast would cache a cast made here without its autograd history
    with torch.autocast(rows.device.type, enabled=False):
        cast = weight.to(dtype)
        given = torch.empty((tokens, width), dtype=dtype, device=rows.device).copy_(rows)
        for start in range(0, tokens, size):
            part = given[start : start + size]
            logits = part @ cast.T
            here = part if any(wanted) else None
            loss_kernel.cross_entropy(
                logits, targets[start : start + size], losses[start : start + size], here, share
            )
            if wanted[1]:
                to_weight = add_product(to_weight, logits.T, part)
            if wanted[0]:
                torch.mm(logits, cast, out=part)
    return losses.sum(), given if wanted[0] else None, to_weight
