"""Plain PyTorch for the consistency loss."""

from __future__ import annotations

from torch import Tensor

from blocks.primitives.reference import wide
from blocks.wiring.loss.cross_entropy.reference import IGNORED


def state_distance(x: Tensor, constant: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of (x - constant)^2 over channels and targets that are not -100; 0 if all are.

    x, constant: [batch, sequence, width]; targets: [batch, sequence].
    """
    scored = targets != IGNORED
    far = wide(x) - wide(constant)
    return ((far * far).mean(-1) * scored).sum() / scored.sum().clamp(min=1)
