"""Sequences of several difficulties: which each has, and drawing them so that splits stay apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from composer.data.base.errors import DataError
from composer.data.base.split import Split
from composer.data.base.stream import Ints, held_out

_MOST_ROUNDS = 2000


def groups(split: Split, step: int, size: int, low: int, high: int, rng: np.random.Generator) -> Ints:
    """Return a difficulty from low to high for each sequence of a batch -> [size].

    They are uniform; in eval each has the same share of every few batches.
    """
    if split == "eval":
        return low + (step * size + np.arange(size)) % (high - low + 1)
    return rng.integers(low, high + 1, size)


def of_groups(split: Split, difficulty: Ints, draw: Callable[[Ints], Ints]) -> Ints:
    """Draw a row of `split` for each difficulty [n] -> [n, tokens]; `draw` returns random rows of some.

    Raises:
        DataError: a difficulty has so few kinds of rows that none of them belongs to `split`.
    """
    rows, missing = draw(difficulty), np.arange(len(difficulty))
    for _ in range(_MOST_ROUNDS):
        missing = missing[held_out(rows[missing]) != (split == "eval")]
        if not len(missing):
            return rows
        rows[missing] = draw(difficulty[missing])
    raise DataError(
        f"the task has too few distinct sequences of difficulty {int(difficulty[missing[0]])}: "
        f"none of them is left for {split}"
    )
