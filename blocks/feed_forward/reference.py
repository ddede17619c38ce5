"""Plain PyTorch for the feed-forward activations. All tensors are [batch, sequence, hidden]."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def gelu_tanh(x: Tensor) -> Tensor:
    """Return the tanh approximation of GELU."""
    return F.gelu(x, approximate="tanh")


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return gelu(gate) * up."""
    return F.gelu(gate) * up


def relu(x: Tensor) -> Tensor:
    """Return max(x, 0)."""
    return F.relu(x)


def relu2(x: Tensor) -> Tensor:
    """Return max(x, 0) ** 2."""
    return F.relu(x).square()
