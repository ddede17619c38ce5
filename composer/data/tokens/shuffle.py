"""Random orders of any length without a table: the place of each number is computed."""

from __future__ import annotations

import numpy as np

from composer.data.base.stream import Ints, mix

_ROUNDS = 4
_EPOCHS = 2  # beside the two splits of `generator`


def epoch_keys(seed: int, source: int, epoch: int, count: int) -> list[int]:
    """Return `count` random 64-bit numbers of one pass over one source."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_EPOCHS, source, epoch))
    return [int(key) for key in sequence.generate_state(count, np.uint64)]


def shuffled(numbers: Ints, count: int, key: int) -> Ints:
    """Return the images of `numbers` under a random permutation of 0 .. count - 1 that `key` selects.

    A Feistel network permutes the next power of four; what falls outside is permuted again until it does not
    (Black and Rogaway 2002).
    """
    half = np.uint64(max(1, ((count - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    rounds = mix(np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(key))
    places = numbers.astype(np.uint64)
    outside = np.ones(places.shape, bool)
    while outside.any():
        left, right = places[outside] >> half, places[outside] & mask
        for constant in rounds:
            left, right = right, left ^ (mix(right ^ constant) & mask)
        places[outside] = left << half | right
        outside = places >= np.uint64(count)
    return places.astype(np.int64)
