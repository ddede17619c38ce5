"""Tile sizes of the depth attention kernels. Torch-free.

A program processes several tokens of one kv head with all query heads of its group, as a block
[tokens, group, head_dim] in fp32 registers.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from blocks.kernels.gpu import padded
from blocks.kernels.tiles import Tiles

Pass = Literal["append", "forward", "backward", "pull"]


class Tile(NamedTuple):
    """Sizes of one program; `tokens` is a power of two.

    Attributes:
        warps: warps of 32 threads.
        stages: loads of slots in flight (pipelining); with 1 only other warps hide the latency.
    """

    tokens: int
    warps: int
    stages: int


class Shape(NamedTuple):
    """The key of the tile table; `architecture` is the compute capability, such as 90; 0 without a GPU."""

    kernel: Pass
    architecture: int
    head_dim: int
    group: int


MEASURED: dict[Shape, Tile] = {}
"""Tiles tuned by measurement on a GPU; other shapes get a derived tile."""

_ELEMENTS: dict[Pass, int] = {"append": 4096, "forward": 4096, "backward": 2048, "pull": 2048}
"""Elements of a block. The forward pass holds two blocks (queries, sums), the backward pass three to four."""

_WIDE = 4096
"""The same for the backward pass with shared slots; with 2048 a thread would load only 8 bytes of a slot."""

_PER_THREAD = 32
"""The most elements of one block per thread: four fp32 blocks fit into 255 registers."""


def _derived(shape: Shape) -> Tile:
    # memory-bound: many programs in flight matter more than large tiles
    token = padded(shape.group) * padded(shape.head_dim)
    elements = _WIDE if shape.kernel == "backward" and shape.group > 2 else _ELEMENTS[shape.kernel]
    tokens = max(1, elements // token)
    warps = max(4, min(16, tokens * token // (32 * _PER_THREAD)))
    return Tile(tokens, warps, stages=1)


tile = Tiles(_derived, MEASURED)
"""The tile of a kernel for a shape."""
