"""How large a tile each kernel of `blocks.primitives` takes: one table, keyed by what decides it. Torch-free.

A program handles some rows at once, each padded to a power of two, in fp32 registers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from blocks.kernels.gpu import padded
from blocks.kernels.tiles import Tiles

Pass = Literal["add_norm", "add_norm_backward", "rotate", "rotate_backward"]

PROGRAMS = 1024
"""Programs of a backward kernel at most: each leaves one row of the gain's gradient to be summed."""

LARGEST = 8192
"""Elements of a row at most."""


class Tile(NamedTuple):
    """Sizes of one program: rows at once (a power of two), and warps of 32 threads."""

    rows: int
    warps: int


class Shape(NamedTuple):
    """What a tile is chosen by; `architecture` is the compute capability, such as 90, 0 without a GPU."""

    kernel: Pass
    architecture: int
    width: int


MEASURED: dict[Shape, Tile] = {}
"""Tiles that were measured to be the best on a GPU: the one place to refresh. Others are derived."""

_ELEMENTS: dict[Pass, int] = {
    "add_norm": 2048,
    "add_norm_backward": 2048,
    "rotate": 2048,
    "rotate_backward": 2048,
}
_PER_THREAD = 16
"""Elements of one block that a thread holds: the backward pass holds four to six blocks."""


def _derived(shape: Shape) -> Tile:
    row = padded(shape.width)
    rows = max(1, _ELEMENTS[shape.kernel] // row)
    warps = max(1, min(16, rows * row // (32 * _PER_THREAD)))
    return Tile(rows, warps)


tile = Tiles(_derived, MEASURED)
"""The tile of a kernel for a shape."""
