"""Plain PyTorch for the cross-entropy losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import project, wide

IGNORED = -100
"""The target id of tokens that are not scored."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean fp32 loss over the targets [batch, sequence] that are not -100; 0 if all are."""
    total = F.cross_entropy(
        wide(logits).flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (targets != IGNORED).sum().clamp(min=1)


def steps_cross_entropy(
    states: Sequence[Tensor], targets: Tensor, weight: Tensor, weighting: str
) -> tuple[Tensor, Tensor]:
    """Return the weighted mean of the losses of all steps, and the last step's loss, detached.

    states: [batch, sequence, width] of each step, normed; targets: [batch, sequence]; weight: [vocab, width].
    """
    losses = [cross_entropy(project(state, weight, weight.shape[:1]), targets) for state in states]
    shares = step_weights(len(losses), weighting)
    total = sum(share * loss for share, loss in zip(shares, losses, strict=True))
    assert isinstance(total, Tensor)
    return total, losses[-1].detach()


def step_weights(steps: int, weighting: str) -> list[float]:
    """Return the weights of the steps: equal (`uniform`) or proportional to 1, 2, 3 (`linear`)."""
    each = [step + 1 if weighting == "linear" else 1 for step in range(steps)]
    return [weight / sum(each) for weight in each]
