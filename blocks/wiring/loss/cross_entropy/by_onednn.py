"""The head and the cross-entropy by chunks with products by oneDNN, on processors where that is faster.

The gradient of the weight is added to that of earlier chunks within the product, which oneDNN does not offer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from blocks.kernels.onednn import linear
from blocks.wiring.loss.cross_entropy import by_chunks, steps_by_chunks

_SUMS = partial(by_chunks.sums, linear=linear)


def head_loss(x: Tensor, targets: Tensor | None, weight: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Do the same as `by_chunks.head_loss`."""
    if targets is None:
        return None, linear(x, weight)
    return by_chunks.head_loss(x, targets, weight, _SUMS)


def steps_head_loss(
    states: Sequence[Tensor], targets: Tensor, weight: Tensor, weighting: str
) -> tuple[Tensor, Tensor]:
    """Do the same as `steps_by_chunks.steps_head_loss`."""
    return steps_by_chunks.steps_head_loss(states, targets, weight, weighting, _SUMS)
