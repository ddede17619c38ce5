"""Functions of `reference.py` with Triton kernels; outputs and gradients are the same.

On a CPU, to which a model planned for a GPU may be moved, the references run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from blocks.kernels.tensors import fits
from blocks.wiring.residual.streams import maps_kernel, mix_kernel, reference

if TYPE_CHECKING:
    from blocks.wiring.residual.streams.config import Constraint


def read_static(h: Tensor, read: Tensor) -> Tensor:
    """Return the sum of the streams weighted by read [streams]."""
    return read_streams(h, read) if fits(h, read) else reference.read_static(h, read)


def read_dynamic(h: Tensor, maps: Tensor) -> Tensor:
    """Return the sum of the streams weighted by the first column of maps."""
    return read_streams(h, maps) if fits(h, maps) else reference.read_dynamic(h, maps)


def write_static(h: Tensor, y: Tensor, write: Tensor, mix: Tensor) -> Tensor:
    """Return the mixed streams plus y times write [streams]; mix as in the reference."""
    given = h, y, write, mix
    return write_streams(*given, mix.ndim == 1) if fits(*given) else reference.write_static(*given)


def write_dynamic(h: Tensor, y: Tensor, maps: Tensor, diagonal: bool) -> Tensor:
    """Return the same with maps per token; `diagonal`: each stream only keeps a factor of itself."""
    if not fits(h, y, maps):
        return reference.write_dynamic(h, y, maps, diagonal)
    return write_streams(h, y, maps, None, diagonal)


def maps_free(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    """Return base + scale * tanh(projection of each stream); projection: [columns of maps, width]."""
    given = h, projection, scale, base
    return make_maps(*given, "none") if fits(*given) else reference.maps_free(*given)


def maps_doubly_stochastic(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    """Return maps projected from all streams together, made doubly stochastic."""
    given = h, projection, scale, base
    return (
        make_maps(*given, "doubly_stochastic") if fits(*given) else reference.maps_doubly_stochastic(*given)
    )


def maps_diagonal(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    """Return the same with a diagonal mix with factors in (0, 1)."""
    given = h, projection, scale, base
    return make_maps(*given, "diagonal") if fits(*given) else reference.maps_diagonal(*given)


def read_streams(h: Tensor, factors: Tensor) -> Tensor:
    """Return the sum of the streams weighted by maps or static factors, by the kernel."""
    return _run(_Read, h, factors)


def write_streams(h: Tensor, y: Tensor, factors: Tensor, mix: Tensor | None, diagonal: bool) -> Tensor:
    """Return the mixed streams plus the update; `factors` are maps, or static ones beside a static mix."""
    return _run(_Write, h, y, factors, mix, diagonal)


def make_maps(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor, kind: Constraint) -> Tensor:
    """Return maps of a kind by the kernel."""
    return _run(_Maps, h, projection, scale, base, kind)


def _run(function: type[Function], h: Tensor, *others: Any) -> Tensor:
    with torch.autocast(h.device.type, enabled=False):
        made: Tensor = function.apply(h, *others)  # type: ignore[no-untyped-call]
    return made


class _Read(Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, factors: Tensor) -> Tensor:
        ctx.save_for_backward(h, factors)
        return mix_kernel.read(h, factors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return mix_kernel.read_backward(gradient, *ctx.saved_tensors)


class _Write(Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, y: Tensor, factors: Tensor, mix: Tensor | None, diagonal: bool
    ) -> Tensor:
        ctx.save_for_backward(h, y, factors, mix)
        ctx.diagonal = diagonal
        return mix_kernel.write(h, y, factors, mix, diagonal)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        h, y, factors, mix = ctx.saved_tensors
        return *mix_kernel.write_backward(gradient, h, y, factors, mix, ctx.diagonal), None


class _Maps(Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, projection: Tensor, scale: Tensor, base: Tensor, kind: Constraint
    ) -> Tensor:
        rows = h.reshape(-1, projection.shape[1])
        norm = torch.linalg.vector_norm(rows, dim=-1).view(-1, 1 if kind != "none" else h.shape[-2])
        made = (rows @ projection.T).view(-1, *base.shape)
        ctx.save_for_backward(h, projection, scale, base, made, norm)
        ctx.kind = kind
        maps = maps_kernel.maps_forward(made, norm, scale, base, rows.shape[1], kind)
        return maps.view(*h.shape[:-1], base.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        h, projection, scale, base, made, norm = ctx.saved_tensors
        size = projection.shape[1]
        given = (gradient.reshape(made.shape), made, norm, scale, base, size, ctx.kind)
        to_made, by_norm, to_scale, to_base = maps_kernel.maps_backward(*given)
        rows, to_made = h.reshape(-1, size), to_made.view(-1, len(projection))
        to_h = (to_made @ projection).addcmul_(rows, by_norm.view(-1, 1))
        return to_h.view(h.shape), to_made.T @ rows, to_scale, to_base, None
