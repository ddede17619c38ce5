"""What depends on a token's position, for tokens that come after others."""

from __future__ import annotations

from math import prod

from torch import Tensor

from blocks.kernels.past import Past
from blocks.primitives.random import noise
from blocks.primitives.reference import sequence_table


def next_rotations(
    tokens: Tensor, past: Past, head_dim: int, base: float, scale: float = 1.0, *, place: str, use: int
) -> Tensor:
    """Return the rotations of new tokens [batch, sequence], as `sequence_table` does: a part of its rows."""

    def table() -> Tensor:
        return sequence_table(tokens.new_empty(1, past.capacity), head_dim, base, scale)

    return past.held(place, use, table)[past.position :][: tokens.shape[1]]


def next_noise(x: Tensor, key: Tensor, past: Past, std: float, *, place: str, use: int) -> Tensor:
    """Return the noise of new tokens x [batch, sequence, ...]."""
    return noise(x, key, std, past.position * prod(x.shape[2:]))
