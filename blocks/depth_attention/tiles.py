"""How large a tile each kernel of depth attention takes: one table, keyed by what decides it. Torch-free.

A program handles some tokens of one kv head with all query heads of its group, as a block of
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
        warps: of 32 threads each.
        stages: loads of slots in flight at once; 1 leaves that to the warps beside.
    """

    tokens: int
    warps: int
    stages: int


class Shape(NamedTuple):
    """What a tile is chosen by; `architecture` is the compute capability, such as 90, 0 without a GPU."""

    kernel: Pass
    architecture: int
    head_dim: int
    group: int


MEASURED: dict[Shape, Tile] = {}
"""Tiles that were measured to be the best on a GPU: the one place to refresh. Others are derived."""

_ELEMENTS: dict[Pass, int] = {"append": 4096, "forward": 4096, "backward": 2048, "pull": 2048}
"""Elements of a block. Forward holds two blocks (queries, sums), backward three to four."""

_WIDE = 4096
"""The same of the backward pass where heads share slots: at 2048 a thread would load 8 bytes of a slot."""

_PER_THREAD = 32
"""Elements of one block that a thread holds at most: four blocks in fp32 fit into 255 registers."""


def _derived(shape: Shape) -> Tile:
    # bound by bytes: enough programs in flight count for more than large ones
    token = padded(shape.group) * padded(shape.head_dim)
    elements = _WIDE if shape.kernel == "backward" and shape.group > 2 else _ELEMENTS[shape.kernel]
    tokens = max(1, elements // token)
    warps = max(4, min(16, tokens * token // (32 * _PER_THREAD)))
    return Tile(tokens, warps, stages=1)


tile = Tiles(_derived, MEASURED)
"""The tile of a kernel for a shape."""
