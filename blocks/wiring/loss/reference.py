"""Plain PyTorch for the loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import wide

IGNORED = -100
"""The target that is not scored."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss over the targets [batch, sequence] that are not -100, in fp32; 0 where none is."""
    total = F.cross_entropy(
        wide(logits).flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return total / (targets != IGNORED).sum().clamp(min=1)
