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
from blocks.wiring.residual.streams import gradient_kernel, maps_kernel, mix_kernel, reference

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


def map_and_read(
    h: Tensor, projection: Tensor, scale: Tensor, base: Tensor, constraint: Constraint
) -> tuple[Tensor, Tensor]:
    """Return the sum of the streams weighted by their maps, and the maps."""
    given = h, projection, scale, base
    return (
        map_and_read_streams(*given, constraint)
        if fits(*given)
        else reference.map_and_read(*given, constraint)
    )


def map_and_read_streams(
    h: Tensor, projection: Tensor, scale: Tensor, base: Tensor, kind: Constraint
) -> tuple[Tensor, Tensor]:
    """Return what is read and the maps of a kind, by kernels."""
    made: tuple[Tensor, Tensor] = _run(_MapAndRead, h, projection, scale, base, kind)
    return made


def read_streams(h: Tensor, factors: Tensor) -> Tensor:
    """Return the sum of the streams weighted by maps or static factors, by the kernel."""
    made: Tensor = _run(_Read, h, factors)
    return made


def write_streams(h: Tensor, y: Tensor, factors: Tensor, mix: Tensor | None, diagonal: bool) -> Tensor:
    """Return the mixed streams plus the update; `factors` are maps, or static ones beside a static mix."""
    made: Tensor = _run(_Write, h, y, factors, mix, diagonal)
    return made


def make_maps(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor, kind: Constraint) -> Tensor:
    """Return maps of a kind by the kernel."""
    made: Tensor = _run(_Maps, h, projection, scale, base, kind)
    return made


def _run(function: type[Function], h: Tensor, *others: Any) -> Any:
    with torch.autocast(h.device.type, enabled=False):
        return function.apply(h, *others)  # type: ignore[no-untyped-call]


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
        maps, *made = _mapped(h, projection, scale, base, kind)
        ctx.save_for_backward(h, projection, *made, scale, base)
        ctx.kind = kind
        return maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        h, projection, *kept = ctx.saved_tensors
        to_made, by_norm, *others = _mapped_backward(gradient, None, projection, kept, ctx.kind)
        rows, to_made = h.reshape(-1, projection.shape[1]), to_made.view(-1, len(projection))
        to_h = (to_made @ projection).addcmul_(rows, by_norm.view(-1, 1))
        return to_h.view(h.shape), to_made.T @ rows, *others, None


class _MapAndRead(Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, projection: Tensor, scale: Tensor, base: Tensor, kind: Constraint
    ) -> tuple[Tensor, Tensor]:
        maps, *made = _mapped(h, projection, scale, base, kind)
        ctx.save_for_backward(h, maps, projection, *made, scale, base)
        ctx.kind = kind
        return mix_kernel.read(h, maps), maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, to_maps: Tensor) -> tuple[Tensor | None, ...]:
        h, maps, projection, *kept = ctx.saved_tensors
        h, gradient = h.contiguous(), gradient.contiguous()
        of_read = mix_kernel.read_products(gradient, h)
        to_made, by_norm, *others = _mapped_backward(to_maps, of_read, projection, kept, ctx.kind)
        to_h = gradient_kernel.map_and_read_backward(gradient, h, maps, to_made, by_norm, projection)
        rows = h.view(-1, projection.shape[1])
        return to_h, to_made.view(-1, len(projection)).T @ rows, *others, None


def _mapped(
    h: Tensor, projection: Tensor, scale: Tensor, base: Tensor, kind: Constraint
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the maps, the projection of the streams and their norms."""
    rows = h.reshape(-1, projection.shape[1])
    norm = torch.linalg.vector_norm(rows, dim=-1).view(-1, 1 if kind != "none" else h.shape[-2])
    made = (rows @ projection.T).view(-1, *base.shape)
    maps = maps_kernel.maps_forward(made, norm, scale, base, rows.shape[1], kind)
    return maps.view(*h.shape[:-1], base.shape[1]), made, norm


def _mapped_backward(
    gradient: Tensor, of_read: Tensor | None, projection: Tensor, kept: list[Tensor], kind: Constraint
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what `maps_kernel.maps_backward` does."""
    made, norm, scale, base = kept
    gradient, size = gradient.reshape(made.shape), projection.shape[1]
    return maps_kernel.maps_backward(gradient, of_read, made, norm, scale, base, size, kind)
