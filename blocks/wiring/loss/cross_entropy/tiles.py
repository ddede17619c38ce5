"""How large a tile the kernel of the loss takes: one table, keyed by what decides it. Torch-free."""

from __future__ import annotations

from typing import NamedTuple

from blocks.kernels.gpu import padded
from blocks.kernels.tiles import Tiles


class Tile(NamedTuple):
    """Sizes of one program: the logits of a row that it holds at once, and warps of 32 threads."""

    columns: int
    warps: int


class Shape(NamedTuple):
    """What a tile is chosen by; `architecture` is the compute capability, such as 90, 0 without a GPU."""

    architecture: int
    vocab: int


MEASURED: dict[Shape, Tile] = {}
"""Tiles that were measured to be the best on a GPU: the one place to refresh. Others are derived."""

_LARGEST = 4096
"""Logits at once at most: 16 for each of 256 threads, in two loads of 16 bytes."""


def _derived(shape: Shape) -> Tile:
    columns = min(_LARGEST, max(32, padded(shape.vocab)))
    return Tile(columns, max(1, columns // 512))


tile = Tiles(_derived, MEASURED)
"""The tile for a shape."""
