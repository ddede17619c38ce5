"""Batches as functions of (seed, step), and the rule that keeps train and eval apart."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, gcd
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from composer.data.base.errors import DataError
from composer.data.base.split import Split

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

IGNORED = -100
"""The target of a position that is not scored."""

_SPLITS: dict[Split, int] = {"train": 0, "eval": 1}
_HELD_OUT_BITS = 4  # eval owns 1 sequence in 2**4
_FRUITLESS_ROUNDS = 100


class Batch(NamedTuple):
    """`size` sequences, int64.

    tokens [size, length] go in; targets [size, length] hold the desired output at the same position, or
    IGNORED; group [size] is the difficulty of each sequence, -1 where there is none.
    """

    tokens: Ints
    targets: Ints
    group: Ints


class Stream(Protocol):
    """The batches of one split of one task.

    A stream of the eval split that begins again after a number of sequences says which, as `distinct`; an
    evaluation then scores each of them once. Without it, batches are taken never to repeat.
    """

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step` of `size` sequences: the same arguments give the same batch, at any time."""


def generator(split: Split, seed: int, step: int) -> np.random.Generator:
    """Independent random numbers for each (split, seed, step)."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_SPLITS[split], step))
    return np.random.Generator(np.random.Philox(sequence))


def held_out(sequences: Ints) -> NDArray[np.bool_]:
    """Tell which rows [n, tokens] belong to eval: 1 in 16, by a hash of the row alone -> [n]."""
    places = np.arange(1, sequences.shape[1] + 1, dtype=np.uint64)
    weights = mix(places * np.uint64(0x9E3779B97F4A7C15))
    digests = mix((sequences.astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64))
    mask: NDArray[np.bool_] = digests >> np.uint64(64 - _HELD_OUT_BITS) == 0
    return mask


def sample(split: Split, size: int, draw: Callable[[int], Ints]) -> Ints:
    """Draw rows until `size` of them belong to `split`; `draw(n)` returns n random rows [n, tokens].

    Raises:
        DataError: the rows drawn are so few kinds that none of them belongs to `split`.
    """
    share = 2.0**-_HELD_OUT_BITS if split == "eval" else 1 - 2.0**-_HELD_OUT_BITS
    kept: list[Ints] = []
    missing, fruitless = size, 0
    while missing > 0:
        rows = draw(ceil(1.1 * missing / share) + 8)
        kept.append(rows[held_out(rows) == (split == "eval")][:missing])
        missing -= len(kept[-1])
        fruitless = 0 if len(kept[-1]) else fruitless + 1
        if fruitless == _FRUITLESS_ROUNDS:
            raise DataError(f"the task has too few distinct sequences: none of them is left for {split}")
    return np.concatenate(kept)


def spread(count: int) -> int:
    """Find the stride coprime to `count` next to the golden section, whose multiples spread evenly."""
    stride = max(1, round(count * 0.618))
    while gcd(stride, count) > 1:
        stride += 1
    return stride


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter each 64-bit value (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
