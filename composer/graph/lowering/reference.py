"""Plain PyTorch for the model's own operations. tokens: [batch, sequence]."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from blocks.kernels.past import Past


def embed(tokens: Tensor, weight: Tensor, scale: float | None = None) -> Tensor:
    """Return the tokens' rows of weight [vocab, width], times `scale`, by default sqrt(width)."""
    rows = F.embedding(tokens, weight)
    return rows if scale == 1 else rows * (math.sqrt(weight.shape[1]) if scale is None else scale)


def add_positions(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [batch, sequence, width] plus the first rows of weight [context, width]."""
    return x + weight[: x.shape[1]]


def add_next_positions(x: Tensor, past: Past, weight: Tensor, *, place: str, use: int) -> Tensor:
    """Return new tokens x [batch, sequence, width] plus the rows of their positions."""
    return x + weight[past.position :][: x.shape[1]]
