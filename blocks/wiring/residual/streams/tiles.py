"""Tile sizes of the kernels of residual streams. Torch-free."""

from __future__ import annotations

from typing import NamedTuple

from blocks.kernels.gpu import padded
from blocks.kernels.tiles import Tiles

MOST_STREAMS = 8
"""The most streams that the kernels hold in registers."""

PROGRAMS = 1024
"""The most programs of a kernel that sums gradients of weights; each writes one partial sum."""


def map_tokens(streams: int) -> int:
    """Return the tokens of a program of one warp that makes maps; more streams take more threads each."""
    return 16 if streams <= 4 else 8


class Tile(NamedTuple):
    """Sizes of one program: rows and columns of each stream (powers of two), and warps of 32 threads."""

    rows: int
    columns: int
    warps: int


def gradient_tile(streams: int, width: int) -> Tile:
    """Return the tile of the kernel that multiplies with the projection, which several rows share."""
    columns = min(128, padded(width))
    return Tile(max(1, _ELEMENTS // (padded(streams) * columns)), columns, 4)


class Shape(NamedTuple):
    """The key of the tile table; `architecture` is the compute capability, such as 90; 0 without a GPU."""

    architecture: int
    streams: int
    width: int


MEASURED: dict[Shape, Tile] = {}
"""Tiles tuned by measurement on a GPU; other shapes get a derived tile."""

_ELEMENTS = 4096
"""The most elements of all streams in a block: 32 for each of 128 threads."""


def _derived(shape: Shape) -> Tile:
    of_one = _ELEMENTS // padded(shape.streams)
    columns = min(of_one, padded(shape.width))
    rows = max(1, of_one // columns)
    return Tile(rows, columns, 4)


tile = Tiles(_derived, MEASURED)
"""The tile for a shape."""
