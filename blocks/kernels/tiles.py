"""Tile sizes of Triton kernels, measured on a GPU or else derived. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

ShapeT = TypeVar("ShapeT")
TileT = TypeVar("TileT")


class Tiles(Generic[ShapeT, TileT]):
    """The tile sizes of a block's kernels; call it with a shape.

    Attributes:
        measured: the best measured tiles by shape; others are derived.
    """

    def __init__(self, derive: Callable[[ShapeT], TileT], measured: Mapping[ShapeT, TileT]) -> None:
        self._derive, self.measured = derive, measured

    def __call__(self, shape: ShapeT) -> TileT:
        """Return the tile for a shape."""
        return self.measured.get(shape) or self._derive(shape)

    @contextmanager
    def using(self, measured: Mapping[ShapeT, TileT]) -> Iterator[None]:
        """Use another table of measured tiles within the context."""
        before, self.measured = self.measured, measured
        try:
            yield
        finally:
            self.measured = before
