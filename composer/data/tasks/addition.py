"""addition: sums of numbers written in digits, the last digit of the sum first (after Lee et al. 2023).

A sequence is `a + b = s` and padding. Numbers a and b have n digits, first digits first, zeros among them; s
has n + 1 digits, last digit first, so that carries run along with it. Only s is scored.

Token ids: the digits are 0 .. 9, then `+`, `=` and the padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from blocks.base.config import Problem
from blocks.base.fields import Count
from blocks.base.invalid import independent
from composer.data.base.config import DataConfig, ModelSize
from composer.data.base.split import Split

if TYPE_CHECKING:
    import numpy as np

    from composer.data.base.stream import Batch, Ints, Stream

PLUS, EQUALS, PADDING = 10, 11, 12


class Addition(DataConfig):
    """Addition in digits; accuracy is reported per number of digits."""

    task: Literal["addition"] = "addition"
    length: Count = 27
    """Tokens per sequence, at least 3 * digits + 3."""
    digits: Count = 8
    """The most digits of a number; each sequence has its own number of them, uniform in 1 .. digits."""

    @property
    def vocab_needed(self) -> int:
        """Digits, `+`, `=` and padding."""
        return 13

    @property
    def group_names(self) -> Mapping[int, str]:
        """A sequence's group is its number of digits."""
        return {count: f"d{count}" for count in range(1, self.digits + 1)}

    def problems(self, model: ModelSize) -> Iterator[Problem]:
        """Yield also where the longest sum does not fit."""
        yield from independent(super().problems(model), self._too_short())

    def _too_short(self) -> Iterator[Problem]:
        if self.length < (least := 3 * self.digits + 3):
            yield Problem("length", f"at least 3 * digits + 3 ({least})", self.length, "raise length")

    def stream(self, split: Split, seed: int) -> Stream:
        """Open the endless sequences of one split."""
        return AdditionStream(self, split, seed)


class AdditionStream:
    """Batches of addition; the two numbers decide the split."""

    def __init__(self, config: Addition, split: Split, seed: int) -> None:
        self.config, self.split, self.seed = config, split, seed

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`; its group is the number of digits."""
        import numpy as np

        from composer.data.base.groups import groups, of_groups
        from composer.data.base.stream import IGNORED, Batch, generator

        config, rng = self.config, generator(self.split, self.seed, step)
        count = groups(self.split, step, size, 1, config.digits, rng)
        rows = of_groups(self.split, count, lambda some: self._sums(rng, some))
        place, end = np.arange(config.length), 2 * count[:, None] + 1
        # each token is the target of the one before it
        after = np.append(rows[:, 1:], np.full((size, 1), PADDING), axis=1)
        scored = (place >= end) & (place <= end + count[:, None])
        return Batch(rows, np.where(scored, after, IGNORED), count)

    def _sums(self, rng: np.random.Generator, counts: Ints) -> Ints:
        """Draw a sum for each number of digits [n] -> [n, length]."""
        import numpy as np

        rows = np.full((len(counts), self.config.length), PADDING)
        for n in np.unique(counts):
            mine = np.flatnonzero(counts == n)
            a, b = rng.integers(0, 10, (2, len(mine), n))
            total, carry = np.zeros((len(mine), n + 1), np.int64), np.zeros(len(mine), np.int64)
            for i in range(n):
                both = a[:, n - 1 - i] + b[:, n - 1 - i] + carry
                total[:, i], carry = both % 10, both // 10
            total[:, n] = carry
            plus, equals = (np.full((len(mine), 1), token) for token in (PLUS, EQUALS))
            rows[mine, : 3 * n + 3] = np.concatenate([a, plus, b, equals, total], axis=1)
        return rows
