"""Tile sizes of the loss kernel. Torch-free."""

from __future__ import annotations

from typing import NamedTuple

from blocks.kernels.gpu import padded
from blocks.kernels.tiles import Tiles


class Tile(NamedTuple):
    """Sizes of one program: the logits of a row in a block, and warps of 32 threads."""

    columns: int
    warps: int


class Shape(NamedTuple):
    """The key of the tile table; `architecture` is the compute capability, such as 90; 0 without a GPU."""

    architecture: int
    vocab: int


MEASURED: dict[Shape, Tile] = {}
"""Tiles tuned by measurement on a GPU; other shapes get a derived tile."""

_LARGEST = 4096
"""The most logits in a block: 16 for each of 256 threads, in two loads of 16 bytes."""


def _derived(shape: Shape) -> Tile:
    columns = min(_LARGEST, max(32, padded(shape.vocab)))
    return Tile(columns, max(1, columns // 512))


tile = Tiles(_derived, MEASURED)
"""The tile for a shape."""
