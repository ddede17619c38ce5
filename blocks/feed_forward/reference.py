"""Plain PyTorch for the feed-forward activations. All tensors are [batch, sequence, hidden]."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up."""
    return F.silu(gate) * up


def gelu(x: Tensor) -> Tensor:
    """Return x times the normal distribution function of x."""
    return F.gelu(x)
