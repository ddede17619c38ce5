"""Residual streams as plain PyTorch with gradients by autograd, which exported models run.

Functions do what those of the same name in `reference` do; shapes are written there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.primitives.reference import EPS
from blocks.wiring.residual.streams.sinkhorn import doubly_stochastic_by_autograd


def read_static(h: Tensor, read: Tensor) -> Tensor:
    """Return the sum of the streams weighted by read [streams]."""
    return (h * read.unsqueeze(-1)).sum(-2)


def read_dynamic(h: Tensor, maps: Tensor) -> Tensor:
    """Return the sum of the streams weighted by the first column of maps."""
    return (h * maps[..., :1]).sum(-2)


def write_static(h: Tensor, y: Tensor, write: Tensor, mix: Tensor) -> Tensor:
    """Return the mixed streams plus y times write [streams]."""
    return _mixed(h, mix) + write.unsqueeze(-1) * y.unsqueeze(-2)


def write_dynamic(h: Tensor, y: Tensor, maps: Tensor, diagonal: bool) -> Tensor:
    """Return the same with maps per token; `diagonal`: each stream only keeps a factor of itself."""
    mixed = h * maps[..., 2:] if diagonal else _product(maps[..., 2:].mT, h)
    return mixed + maps[..., 1:2] * y.unsqueeze(-2)


def maps_free(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    """Return base + scale * tanh(projection of each stream)."""
    return base + scale * _projected(h, projection).tanh().view(*h.shape[:-1], -1)


def maps_doubly_stochastic(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    """Return maps projected from all streams together, made doubly stochastic."""
    logits = base + scale * _projected(h, projection).view(*h.shape[:-1], -1)
    shares = logits[..., :2].sigmoid()
    mix = doubly_stochastic_by_autograd(logits[..., 2:])
    return torch.cat((shares[..., :1], 2 * shares[..., 1:], mix), -1)


def maps_diagonal(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    """Return the same with a diagonal mix with factors in (0, 1)."""
    logits = base + scale * _projected(h, projection).view(*h.shape[:-1], -1)
    return logits.sigmoid() * logits.new_tensor((1.0, 2.0, 1.0))


def _projected(h: Tensor, projection: Tensor) -> Tensor:
    """Return the projection of each stream, or of all together, divided by its root mean square."""
    rows = h.reshape(-1, projection.shape[1])
    normed = rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + EPS)
    return _product(normed, projection.T)


def _mixed(h: Tensor, mix: Tensor) -> Tensor:
    return mix.unsqueeze(-1) * h if mix.ndim == 1 else _product(mix, h)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b in the dtype of the streams, also under autocast."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b
