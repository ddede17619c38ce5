"""Plain PyTorch for residual streams.

`h`, the streams, is [batch, sequence, streams, width]; `x` and `y` are [batch, sequence, width]. With static
maps, streams are the outermost dimension in memory, so that one product over all tokens mixes them.

`maps` [batch, sequence, streams, 2 + targets] are, for each stream, the factors of reading, of writing, and
of each target in the mix: all streams, or only itself.

Everything is computed in the dtype of the streams, also under autocast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blocks.wiring.residual.streams.autograd import (
    Project,
    ReadDynamic,
    ReadStatic,
    WriteDynamic,
    WriteStatic,
)
from blocks.wiring.residual.streams.sinkhorn import doubly_stochastic, doubly_stochastic_by_autograd


def open_streams(x: Tensor, streams: int, apart: bool) -> Tensor:
    """Return copies of x as streams, which are the outermost dimension in memory if `apart`."""
    if apart:
        return x.expand(streams, *x.shape).contiguous().movedim(0, -2)
    return x.unsqueeze(-2).expand(*x.shape[:-1], streams, x.shape[-1]).contiguous()


def close_streams(h: Tensor, apart: bool) -> Tensor:
    """Return the mean of the streams."""
    return h.movedim(-2, 0).mean(0) if apart else h.mean(-2)


def read_static(h: Tensor, read: Tensor) -> Tensor:
    """Return the sum of the streams weighted by read [streams]."""
    return _exact(ReadStatic, h, read)


def read_dynamic(h: Tensor, maps: Tensor) -> Tensor:
    """Return the sum of the streams weighted by the first column of maps."""
    return _exact(ReadDynamic, h, maps)


def write_static(h: Tensor, y: Tensor, write: Tensor, mix: Tensor) -> Tensor:
    """Return the mixed streams plus y times write [streams].

    mix: [streams, streams], from column to row, or [streams], the factor of each stream.
    """
    return _exact(WriteStatic, h, y, write, mix)


def write_dynamic(h: Tensor, y: Tensor, maps: Tensor, diagonal: bool) -> Tensor:
    """Return the same with maps per token; `diagonal`: each stream only keeps a factor of itself."""
    return _exact(WriteDynamic, h, y, maps, diagonal)


def pack(
    projection: Tensor, scales: Tensor, read: Tensor, write: Tensor, mix: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the projection, a scale for each column of maps, and the static part of maps.

    scales: [3], for reading, writing and mixing; read, write and mix as in the static functions.
    """
    targets = mix.unsqueeze(-1) if mix.ndim == 1 else mix.T
    columns = torch.cat((scales[:2], scales[2:].expand(targets.shape[1])))
    return projection, columns, torch.cat((read.unsqueeze(-1), write.unsqueeze(-1), targets), -1)


def maps_free(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    """Return base + scale * tanh(projection of each stream); projection: [columns of maps, width]."""
    return torch.addcmul(base, scale, _projected(h, projection).tanh())


def maps_doubly_stochastic(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    """Return maps projected from all streams together, made doubly stochastic.

    projection: [elements of maps, streams * width]. Reading factors are in (0, 1), writing factors in (0, 2).
    """
    logits = torch.addcmul(base, scale, _projected(h, projection))
    shares = logits[..., :2].sigmoid()
    return torch.cat((shares[..., :1], 2 * shares[..., 1:], doubly_stochastic(logits[..., 2:])), -1)


def maps_diagonal(h: Tensor, projection: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    """Return the same with a diagonal mix with factors in (0, 1)."""
    logits = torch.addcmul(base, scale, _projected(h, projection))
    return logits.sigmoid() * logits.new_tensor((1.0, 2.0, 1.0))


def map_and_read(
    h: Tensor, projection: Tensor, scale: Tensor, base: Tensor, constraint: str
) -> tuple[Tensor, Tensor]:
    """Return the sum of the streams weighted by their maps, and the maps."""
    make = {"none": maps_free, "diagonal": maps_diagonal, "doubly_stochastic": maps_doubly_stochastic}
    maps = make[constraint](h, projection, scale, base)
    return read_dynamic(h, maps), maps


def share(read: Tensor) -> tuple[Tensor]:
    """Return static reading factors in (0, 1)."""
    return (read.sigmoid(),)


def static_doubly_stochastic(write: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """Return static writing factors in (0, 2), and a doubly stochastic mix."""
    # one matrix: autograd keeps little
    return 2 * write.sigmoid(), doubly_stochastic_by_autograd(mix.T[None, None])[0, 0].T


def static_diagonal(write: Tensor, mix: Tensor) -> tuple[Tensor, Tensor]:
    """Return static writing factors in (0, 2), and a diagonal mix with factors in (0, 1)."""
    return 2 * write.sigmoid(), mix.sigmoid()


def _projected(h: Tensor, projection: Tensor) -> Tensor:
    """Return the projection of h divided by its root mean square, in the shape of maps.

    The projection has as many columns as one stream, or all streams, have elements.
    """
    return _exact(Project, h, projection)


def _exact(function: type[torch.autograd.Function], h: Tensor, *others: Any) -> Tensor:
    with torch.autocast(h.device.type, enabled=False):
        made: Tensor = function.apply(h, *others)  # type: ignore[no-untyped-call]
    return made
