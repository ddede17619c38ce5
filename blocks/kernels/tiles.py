"""Tile sizes of Triton kernels: as measured on a GPU where they were, otherwise derived. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

ShapeT = TypeVar("ShapeT")
TileT = TypeVar("TileT")


class Tiles(Generic[ShapeT, TileT]):
    """The tiles of a block's kernels, called with what a tile is chosen by.

    Attributes:
        measured: tiles that were measured to be the best; others are derived.
    """

    def __init__(self, derive: Callable[[ShapeT], TileT], measured: Mapping[ShapeT, TileT]) -> None:
        self._derive, self.measured = derive, measured

    def __call__(self, shape: ShapeT) -> TileT:
        """Return the tile for a shape."""
        return self.measured.get(shape) or self._derive(shape)

    @contextmanager
    def using(self, measured: Mapping[ShapeT, TileT]) -> Iterator[None]:
        """Take tiles from another table within the context."""
        before, self.measured = self.measured, measured
        try:
            yield
        finally:
            self.measured = before
