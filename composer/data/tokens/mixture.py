"""Which source each sequence of a training comes from, and which of that source's it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from composer.data.base.stream import Ints
from composer.data.tokens.weights import BLOCK, shares


class Mixture:
    """Sources in random order by weight; after each BLOCK sequences all have had their share."""

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.shares, self.seed = shares(weights), seed

    def draw(self, numbers: Ints) -> tuple[Ints, Ints]:
        """Return the source of each of `numbers` [n], and how many sequences of that source came before."""
        if len(self.shares) == 1:
            return np.zeros_like(numbers), numbers
        source, before = np.empty_like(numbers), np.empty_like(numbers)
        blocks = numbers // BLOCK
        for block in np.unique(blocks):
            mine = blocks == block
            order = self._order(int(block))
            rank = np.empty(BLOCK, np.int64)
            for i, share in enumerate(self.shares):
                rank[order == i] = block * share + np.arange(share)
            places = numbers[mine] - block * BLOCK
            source[mine], before[mine] = order[places], rank[places]
        return source, before

    def _order(self, block: int) -> Ints:
        sequence = np.random.SeedSequence(self.seed, spawn_key=(3, block))
        rng = np.random.Generator(np.random.Philox(sequence))
        return rng.permutation(np.repeat(np.arange(len(self.shares)), self.shares))
