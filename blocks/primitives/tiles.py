"""Tile sizes of the kernels in `blocks.primitives`. Torch-free.

A program processes several rows at once, each padded to a power of two, in fp32 registers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from blocks.kernels.gpu import padded
from blocks.kernels.tiles import Tiles

Pass = Literal["add_norm", "add_norm_backward", "rotate", "rotate_backward"]

PROGRAMS = 1024
"""The most programs of a backward kernel; each writes one row of partial sums of the gain's gradient."""

LARGEST = 8192
"""The most elements of a row."""


class Tile(NamedTuple):
    """Sizes of one program: rows (a power of two) and warps of 32 threads."""

    rows: int
    warps: int


class Shape(NamedTuple):
    """The key of the tile table; `architecture` is the compute capability, such as 90; 0 without a GPU."""

    kernel: Pass
    architecture: int
    width: int


MEASURED: dict[Shape, Tile] = {}
"""Tiles tuned by measurement on a GPU; other shapes get a derived tile."""

_ELEMENTS = 2048
"""The most elements of a block."""

_PER_THREAD = 16
"""Elements of one block per thread; the backward pass holds four to six blocks."""


def _derived(shape: Shape) -> Tile:
    row = padded(shape.width)
    rows = max(1, _ELEMENTS // row)
    warps = max(1, min(16, rows * row // (32 * _PER_THREAD)))
    return Tile(rows, warps)


tile = Tiles(_derived, MEASURED)
"""The tile of a kernel for a shape."""
