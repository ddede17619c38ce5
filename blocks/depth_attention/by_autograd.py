"""Depth attention as plain PyTorch with gradients by autograd, which exported models run."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.depth_attention.reference import attended, distances, slots_read
from blocks.kernels.depth_slots import DepthSlots


def attend(
    query: Tensor,
    token: Tensor,
    memory: DepthSlots,
    bias: Tensor | None = None,
    *,
    reads: int,
    window: int | None = None,
    stride: int = 1,
) -> Tensor:
    """Attend from each token's query [batch, sequence, heads, head_dim] to its first `reads` slots.

    Of these every `stride`-th of the last `window` is read, counted from the last. `bias` [heads] times the
    slot's distance from the latest slot is subtracted from its scores. With `reads` = 0 the output is 0.
    """
    part = slots_read(reads, window, stride)
    if not part.stop:
        return torch.zeros_like(query)
    keys, values = memory.read(part)
    far = None if bias is None else distances(bias, part, query.shape[2] // keys.shape[3])
    return attended(query, keys, values, far)[0]
