"""Tile sizes of the expert attention kernels. Torch-free.

Routing kernels hold blocks [tokens, experts], row kernels blocks [rows, columns], padded to powers of two.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from blocks.kernels.gpu import padded
from blocks.kernels.tiles import Tiles

Pass = Literal["choose", "unchoose", "scan", "place", "spread", "sum", "swiglu", "swiglu_backward"]


class Tile(NamedTuple):
    """Sizes of one program, powers of two.

    Attributes:
        rows: tokens of `choose`, `unchoose`, `spread` and `sum`, tiles of `scan`, choices of `place`, rows of
            `swiglu` and its backward pass.
        columns: experts of routing, else elements of a row.
        warps: of 32 threads each.
    """

    rows: int
    columns: int
    warps: int


class Shape(NamedTuple):
    """The key of the tile table; `architecture` is the compute capability, such as 90; 0 without a GPU.

    `width` is the number of experts in routing, else the elements of a row.
    """

    kernel: Pass
    architecture: int
    width: int


MEASURED: dict[Shape, Tile] = {}
"""Tiles tuned by measurement on a GPU; other shapes get a derived tile."""

LARGEST = 1024
"""The most experts: the logits of a token are one row of a block."""

MOST_ACTIVE = 16
"""The most active experts of a token: their rows are read at once."""

_CHOICES = 256
"""The number of choices per program of `place`."""

_SCAN = Tile(1024, 8, 8)
"""A program of `scan` sums 8 experts over all tiles: many programs with few iterations."""

BITS = 8
"""Tokens of a routing tile: the bits of one byte."""


def _derived(shape: Shape) -> Tile:
    if shape.kernel == "scan":
        return _SCAN
    if shape.kernel == "place":
        return Tile(_CHOICES, padded(shape.width), 2)
    if shape.kernel in ("choose", "unchoose"):
        # 64 logits per thread; a single warp if possible, since warps would have to synchronize
        experts = padded(shape.width)
        return Tile(BITS, experts, max(1, BITS * experts // 2048))
    # memory-bound: 16 elements per thread, of two to four blocks
    columns = _columns(shape.width)
    return Tile(max(1, 2048 // columns), columns, 4)


def _columns(width: int) -> int:
    """Return the columns of a block that waste the least of a row; the larger number if equal."""
    sizes = [1 << power for power in range(7, 11)]
    fitting = [size for size in sizes if size <= padded(width)] or [padded(width)]
    return min(fitting, key=lambda size: (-(-width // size) * size, -size))


tile = Tiles(_derived, MEASURED)
"""The tile of a kernel for a shape."""


class ProductTile(NamedTuple):
    """Sizes of one program of the gradients of weights, powers of two.

    Attributes:
        left: columns of the left factor.
        right: columns of the right factor.
        rows: of both that are multiplied at once.
        warps: of 32 threads each.
        stages: loads of rows in flight at once.
    """

    left: int
    right: int
    rows: int
    warps: int
    stages: int


class ProductShape(NamedTuple):
    """The key of the tile table: the columns of both factors, and the bytes per element of products."""

    architecture: int
    left: int
    right: int
    bytes: int


MEASURED_PRODUCTS: dict[ProductShape, ProductTile] = {}
"""Tiles tuned by measurement on a GPU; other shapes get a derived tile."""

PRODUCT_STEPS = 4
"""The number of steps whose rows are multiplied at once; sums are read and written once for them."""


def _derived_products(shape: ProductShape) -> ProductTile:
    left, right = (min(128, max(16, padded(size))) for size in (shape.left, shape.right))
    if shape.bytes == 4:
        # no tensor cores: sums and factors stay in registers
        return ProductTile(min(64, left), min(64, right), 16, 4, 2)
    return ProductTile(left, right, 64, 8 if left * right > 8192 else 4, 3)


product_tile = Tiles(_derived_products, MEASURED_PRODUCTS)
"""The tile of the gradients of weights for a shape."""


class GatherTile(NamedTuple):
    """Sizes of one program of the first product, powers of two.

    Attributes:
        rows: of an expert.
        columns: of gate, and as many of up.
        width: elements of rows that are multiplied at once.
        warps: of 32 threads each.
        stages: loads in flight at once.
    """

    rows: int
    columns: int
    width: int
    warps: int
    stages: int


MEASURED_GATHERED: dict[ProductShape, GatherTile] = {}
"""Tiles tuned by measurement on a GPU; other shapes get a derived tile."""


def _derived_gathered(shape: ProductShape) -> GatherTile:
    # `left` is the width, `right` the hidden size
    width, columns = (max(16, padded(size)) for size in (shape.left, shape.right))
    return GatherTile(128, min(128, columns), min(64, width), 8, 3)


gather_tile = Tiles(_derived_gathered, MEASURED_GATHERED)
"""The tile of the first product for a shape."""
