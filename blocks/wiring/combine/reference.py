"""Plain PyTorch for combining branches. Branches are [batch, sequence, width]."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.primitives.reference import wide


def mean(*branches: Tensor) -> Tensor:
    """Return the mean of the branches."""
    return torch.stack(branches).mean(0)


def gate(logits: Tensor, *branches: Tensor) -> Tensor:
    """Return the sum of the branches, weighted by the softmax of logits [batch, sequence, branches]."""
    weights = wide(logits).softmax(-1).to(branches[0].dtype)
    total = weights[..., :1] * branches[0]
    for n, branch in enumerate(branches[1:], start=1):
        total = total + weights[..., n : n + 1] * branch
    return total
