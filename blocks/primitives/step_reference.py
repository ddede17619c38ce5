"""Plain PyTorch for operations with separate weights per step. x: [batch, sequence, ...]."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import layer_norm, rms_norm


def rms_norm_step(x: Tensor, gains: Tensor, index: int) -> Tensor:
    """Return x / rms(x) * gains[index] over the last dimension; gains: [steps, last dimension of x]."""
    return rms_norm(x, gains[index])


def layer_norm_step(x: Tensor, gains: Tensor, shifts: Tensor | None = None, *, index: int) -> Tensor:
    """Return LayerNorm(x) with gains[index] and shifts[index]; both: [steps, last dimension of x]."""
    return layer_norm(x, gains[index], None if shifts is None else shifts[index])


def project_step(x: Tensor, weights: Tensor, shape: Sequence[int], index: int) -> Tensor:
    """Return x times the matrix of step `index`, in `shape`; weights: [steps * prod(shape), fan_in]."""
    size = prod(shape)
    y: Tensor = F.linear(x.flatten(2), weights[index * size : (index + 1) * size])
    return y.view(*y.shape[:2], *shape)


def scale_step(x: Tensor, scales: Tensor, index: int) -> Tensor:
    """Return x times scales[index]; scales: [steps]."""
    return x * scales[index]
