"""How large a tile each kernel of expert attention takes: one table, keyed by what decides it. Torch-free.

Kernels of routing hold blocks of [tokens, experts], those of rows blocks of [rows, columns], padded to powers
of two.
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
    """What a tile is chosen by; `architecture` is the compute capability, such as 90, 0 without a GPU.

    `width` is the number of experts in routing, else the elements of a row.
    """

    kernel: Pass
    architecture: int
    width: int


MEASURED: dict[Shape, Tile] = {}
"""Tiles that were measured to be the best on a GPU: the one place to refresh. Others are derived."""

LARGEST = 1024
"""Experts at most: a token's logits are one row of a block."""

MOST_ACTIVE = 16
"""Experts of one token at most: their rows are read at once."""

_CHOICES = 256
"""Choices that one program of `place` puts into their rows."""

_SCAN = Tile(1024, 8, 8)
"""One program adds up 8 experts over all tiles: many programs, and few rounds of each."""

BITS = 8
"""Tokens of a tile of routing: bits of one byte."""


def _derived(shape: Shape) -> Tile:
    if shape.kernel == "scan":
        return _SCAN
    if shape.kernel == "place":
        return Tile(_CHOICES, padded(shape.width), 2)
    if shape.kernel in ("choose", "unchoose"):
        # 64 logits for each thread; one warp searches alone where it can, for warps would have to wait
        experts = padded(shape.width)
        return Tile(BITS, experts, max(1, BITS * experts // 2048))
    # bound by bytes: 16 elements for each thread, of two to four blocks
    columns = _columns(shape.width)
    return Tile(max(1, 2048 // columns), columns, 4)


def _columns(width: int) -> int:
    """Return the columns of a block: those that fill rows best, more where that is equal."""
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
    """What such a tile is chosen by: the columns of both factors, and the bytes of an element of products."""

    architecture: int
    left: int
    right: int
    bytes: int


MEASURED_PRODUCTS: dict[ProductShape, ProductTile] = {}
"""Tiles that were measured to be the best on a GPU: the one place to refresh. Others are derived."""

PRODUCT_STEPS = 4
"""Steps whose rows are multiplied at once: sums are read and written once for so many."""


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
"""Tiles that were measured to be the best on a GPU: the one place to refresh. Others are derived."""


def _derived_gathered(shape: ProductShape) -> GatherTile:
    # `left` is the width, `right` the hidden size
    width, columns = (max(16, padded(size)) for size in (shape.left, shape.right))
    return GatherTile(128, min(128, columns), min(64, width), 8, 3)


gather_tile = Tiles(_derived_gathered, MEASURED_GATHERED)
"""The tile of the first product for a shape."""
