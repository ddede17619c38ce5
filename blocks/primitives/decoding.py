"""What depends on a token's position, for tokens that come after others."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor

from blocks.kernels.past import Past
from blocks.primitives.random import noise
from blocks.primitives.reference import sequence_table


def next_sequence_rows(tokens: Tensor, past: Past, *, place: str, use: int, **sizes: Any) -> Tensor:
    """Return the rows of new tokens [batch, sequence] of a table of positions."""
    return next_rows(tokens, past, sequence_table, place, use, **sizes)


def next_rows(
    tokens: Tensor, past: Past, make: Callable[..., Tensor], place: str, use: int, **sizes: Any
) -> Tensor:
    """Return the rows of new tokens [batch, sequence] of the table that a function makes of all positions.

    Where rows of the batch are at positions of their own, each has its own rows: [batch, 1, ...].
    """

    def table() -> Tensor:
        return make(tokens.new_empty(1, past.capacity), **sizes)

    rows, position = past.held(place, use, table), past.positions
    return rows[position:][: tokens.shape[1]] if isinstance(position, int) else rows[position][:, None]


def next_noise(x: Tensor, key: Tensor, past: Past, std: float, *, place: str, use: int) -> Tensor:
    """Return the noise of new tokens x [batch, sequence, ...]."""
    return noise(x, key, std, past.positions * prod(x.shape[2:]))
