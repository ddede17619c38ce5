"""Plain PyTorch for the model's own operations. tokens: [batch, sequence]."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def embed(tokens: Tensor, weight: Tensor) -> Tensor:
    """Return the tokens' rows of weight [vocab, width], times sqrt(width)."""
    return F.embedding(tokens, weight) * math.sqrt(weight.shape[1])
