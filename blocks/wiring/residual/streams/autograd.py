"""Autograd functions on residual streams whose backward passes hold one copy of the streams.

Plain autograd would materialize gradients of broadcast tensors per stream before it sums them. Shapes are
those of `blocks.wiring.residual.streams.reference`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from blocks.kernels.tensors import as_output
from blocks.primitives.reference import EPS


class Project(Function):
    """Projection of normalized streams; divides after the product, so there is no normalized copy."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, projection: Tensor) -> Tensor:
        """Return the projection of h divided by its root mean square."""
        rows = h.reshape(-1, projection.shape[1])
        norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
        inverse = norm.square_().div_(rows.shape[1]).add_(EPS).rsqrt_()
        made = (rows @ projection.T).mul_(inverse)
        ctx.save_for_backward(h, projection, inverse, made)
        return made.view(*h.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of h and the projection."""
        h, projection, inverse, made = ctx.saved_tensors
        rows, gradient = h.reshape(len(made), -1), gradient.reshape(made.shape)
        by_norm = (gradient * made).sum(-1, keepdim=True).mul_(inverse.square()).div_(-rows.shape[1])
        scaled = gradient * inverse
        by_rows = (scaled @ projection).addcmul_(rows, by_norm)
        return by_rows.view(h.shape), scaled.T @ rows


class ReadStatic(Function):
    """Sum over streams with static weights: a vector-matrix product."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, read: Tensor) -> Tensor:
        """Return the sum of the streams weighted by read."""
        ctx.save_for_backward(h, read)
        return torch.mv(_rows(h).T, read).view(*h.shape[:-2], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of h and read."""
        h, read = ctx.saved_tensors
        flat = gradient.flatten()
        return _streams(torch.outer(read, flat), gradient), torch.mv(_rows(h), flat)


class ReadDynamic(Function):
    """Sum over streams with weights per token."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, maps: Tensor) -> Tensor:
        """Return the sum of the streams weighted by the first column of maps."""
        ctx.save_for_backward(h, maps)
        return (h * maps[..., :1]).sum(-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of h and maps."""
        h, maps = ctx.saved_tensors
        gradient, by_maps = gradient.unsqueeze(-2), torch.zeros_like(maps)
        by_maps[..., 0] = (h * gradient).sum(-1)
        return gradient * maps[..., :1], by_maps


class WriteStatic(Function):
    """Static mix and update: one product over all tokens, or a factor per stream."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, y: Tensor, write: Tensor, mix: Tensor) -> Tensor:
        """Return the mixed streams plus y times write."""
        ctx.save_for_backward(h, y, write, mix)
        rows = _rows(h)
        mixed = mix.unsqueeze(-1) * rows if mix.ndim == 1 else mix @ rows
        return _streams(mixed.addcmul_(write.unsqueeze(-1), y.flatten()), y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients of h, y, write and mix."""
        h, y, write, mix = ctx.saved_tensors
        rows, given = _rows(h), _rows(gradient)
        by_y = torch.mv(given.T, write).view(y.shape).to(y.dtype)
        by_write = torch.mv(given, y.flatten().to(given.dtype))
        if mix.ndim == 1:
            by_mix = (rows * given).sum(-1)
            return _streams(mix.unsqueeze(-1) * given, y), by_y, by_write, by_mix
        return _streams(mix.T @ given, y), by_y, by_write, given @ rows.T


class WriteDynamic(Function):
    """Mix and update per token: a product per token, or a factor per stream."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, y: Tensor, maps: Tensor, diagonal: bool) -> Tensor:
        """Return the mixed streams plus y times the second column of maps."""
        ctx.save_for_backward(h, y, maps)
        ctx.diagonal = diagonal
        mixed = h * maps[..., 2:] if diagonal else maps[..., 2:].mT @ h
        return as_output(mixed.addcmul_(maps[..., 1:2], y.unsqueeze(-2)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Return the gradients of h, y and maps."""
        h, y, maps = ctx.saved_tensors
        write, mix = maps[..., 1:2], maps[..., 2:]
        by_maps = torch.zeros_like(maps)
        by_maps[..., 1] = (gradient * y.unsqueeze(-2)).sum(-1)
        by_y = (gradient * write).sum(-2).to(y.dtype)
        if ctx.diagonal:
            by_maps[..., 2] = (h * gradient).sum(-1)
            return gradient * mix, by_y, by_maps, None
        by_maps[..., 2:] = h @ gradient.mT
        return mix @ gradient, by_y, by_maps, None


def _rows(h: Tensor) -> Tensor:
    """Return the streams as rows [streams, batch * sequence * width]."""
    return h.movedim(-2, 0).flatten(1)


def _streams(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows as streams, for tokens shaped like `like` [batch, sequence, width]."""
    return rows.view(-1, *like.shape).movedim(0, -2)
