"""Generation: operations that depend on the position of new tokens."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from torch import Tensor

from blocks.kernels.past import Past
from blocks.primitives.random import noise
from blocks.primitives.reference import sequence_table


def next_sequence_rows(tokens: Tensor, past: Past, *, place: str, use: int, **sizes: Any) -> Tensor:
    """Return the rows of the position table for new tokens [batch, sequence]."""
    return next_rows(tokens, past, sequence_table, place, use, **sizes)


def next_rows(
    tokens: Tensor, past: Past, make: Callable[..., Tensor], place: str, use: int, **sizes: Any
) -> Tensor:
    """Return the rows for new tokens [batch, sequence] of the table that `make` returns for all positions.

    If sequences of the batch are at different positions, the result is [batch, 1, ...].
    """

    def table() -> Tensor:
        return make(tokens.new_empty(1, past.capacity), **sizes)

    rows, position = past.held(place, use, table), past.positions
    return rows[position:][: tokens.shape[1]] if isinstance(position, int) else rows[position][:, None]


def next_noise(x: Tensor, key: Tensor, past: Past, std: float, *, place: str, use: int) -> Tensor:
    """Return the noise for new tokens x [batch, sequence, ...]."""
    return noise(x, key, std, past.positions * prod(x.shape[2:]))
