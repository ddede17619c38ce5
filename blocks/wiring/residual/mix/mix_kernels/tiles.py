"""Tile sizes of the kernels of residual mixes. Torch-free.

A program processes whole values of several tokens, as blocks [tokens, heads, width / heads] in fp32
registers, with both sizes padded to powers of two.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from blocks.kernels.gpu import padded
from blocks.kernels.tiles import Tiles

Pass = Literal[
    "attend",
    "attend_backward",
    "norm_latest",
    "norm_latest_backward",
    "rectify",
    "rectify_backward",
    "weigh",
    "weigh_backward",
]

PROGRAMS = 1024
"""The most programs of a backward kernel; each writes one row of partial sums of a weight's gradient."""

LARGEST = 8192
"""The most elements of a block of one token."""


class Tile(NamedTuple):
    """Sizes of one program: tokens (a power of two) and warps of 32 threads."""

    tokens: int
    warps: int


class Shape(NamedTuple):
    """The key of the tile table; `architecture` is the compute capability, such as 90; 0 without a GPU."""

    kernel: Pass
    architecture: int
    heads: int
    width: int


MEASURED: dict[Shape, Tile] = {}
"""Tiles tuned by measurement on a GPU; other shapes get a derived tile."""

_ELEMENTS = 1024
"""The most elements of a block, unless one token has more."""

_PER_THREAD, _FEW = 32, 16
"""Elements of one block per thread; backward passes with a query hold five to seven blocks, others three."""


def elements(heads: int, width: int) -> int:
    """Return the elements of a block of one token."""
    return padded(heads) * padded(width // heads)


def _derived(shape: Shape) -> Tile:
    row = elements(shape.heads, shape.width)
    tokens = max(1, _ELEMENTS // row)
    per_thread = _FEW if shape.kernel in ("attend_backward", "rectify_backward") else _PER_THREAD
    return Tile(tokens, max(1, min(16, tokens * row // (32 * per_thread))))


tile = Tiles(_derived, MEASURED)
"""The tile of a kernel for a shape."""
