"""group_word: products in a group of permutations, a task that needs depth (after Merrill et al. 2024).

A sequence is elements g_1 .. g_n of a group; the target at position t is the product g_1 g_2 .. g_t, that is
g_t after the product so far. Every position is scored.

Token ids: the elements of S3 (6), A4 (12), S4 (24), A5 (60) or S5 (120) in the order of their permutations.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from blocks.base.fields import Count
from composer.data.base.config import DataConfig
from composer.data.base.split import Split

if TYPE_CHECKING:
    from composer.data.base.stream import Batch, Ints, Stream

_ORDERS = {"S3": 6, "A4": 12, "S4": 24, "A5": 60, "S5": 120}


class GroupWord(DataConfig):
    """Products of group elements, at every prefix; accuracy is reported per number of elements."""

    task: Literal["group_word"] = "group_word"
    length: Annotated[Count, Field(ge=8, multiple_of=4)] = 16
    """Elements per sequence. Words of a quarter, a half, three quarters and all of it are told apart."""
    group: Literal["S3", "A4", "S4", "A5", "S5"] = "S5"
    """The group; for A5 and S5 longer words need more layers (unless TC0 = NC1)."""

    @property
    def vocab_needed(self) -> int:
        """The elements of the group."""
        return _ORDERS[self.group]

    @property
    def group_names(self) -> Mapping[int, str]:
        """A sequence's group is the number of its elements that are scored."""
        return {count: f"n{count}" for count in self.lengths}

    @property
    def lengths(self) -> list[int]:
        """The numbers of elements that are told apart."""
        return [self.length * quarter // 4 for quarter in range(1, 5)]

    def stream(self, split: Split, seed: int) -> Stream:
        """Open the endless sequences of one split."""
        return GroupWordStream(self, split, seed)


class GroupWordStream:
    """Batches of group_word. In eval only the last product of a word is scored, which tells its length."""

    def __init__(self, config: GroupWord, split: Split, seed: int) -> None:
        self.config, self.split, self.seed = config, split, seed

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`; its group is the length of the word."""
        import numpy as np

        from composer.data.base.groups import groups
        from composer.data.base.stream import IGNORED, Batch, generator, sample

        config, rng = self.config, generator(self.split, self.seed, step)
        words = sample(self.split, size, lambda n: rng.integers(0, config.vocab_needed, (n, config.length)))
        products = words.copy()
        times = _table(config.group)
        for t in range(1, config.length):
            products[:, t] = times[products[:, t - 1], words[:, t]]
        if self.split == "train":
            return Batch(words, products, np.full(size, config.length))
        counts = np.array(config.lengths)[groups(self.split, step, size, 0, 3, rng)]
        last = np.arange(config.length) == counts[:, None] - 1
        return Batch(words, np.where(last, products, IGNORED), counts)


@cache
def _table(group: str) -> Ints:
    """Return the product of each two elements: first the left one, then the right one."""
    from itertools import permutations

    import numpy as np

    points = [*permutations(range(int(group[1])))]
    if group[0] == "A":
        points = [point for point in points if _even(point)]
    places = {point: i for i, point in enumerate(points)}
    table = [[places[tuple(right[i] for i in left)] for right in points] for left in points]
    return np.array(table, np.int64)


def _even(point: tuple[int, ...]) -> bool:
    """Tell whether a permutation has an even number of inversions."""
    return sum(a > b for i, a in enumerate(point) for b in point[i + 1 :]) % 2 == 0
