"""mqar: multi-query associative recall, which needs attention but no depth (Arora et al. 2023).

A sequence is pairs of a key and its value, then the same keys in another order, and padding. At each of the
keys that come again its value is the target. A control: any model with attention over tokens learns it.

Token ids: the keys are 0 .. keys - 1, the values keys .. keys + values - 1, then the padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from blocks.base.config import Problem
from blocks.base.fields import Count
from blocks.base.invalid import independent
from composer.data.base.config import DataConfig, ModelSize
from composer.data.base.split import Split

if TYPE_CHECKING:
    import numpy as np

    from composer.data.base.stream import Batch, Ints, Stream


class Mqar(DataConfig):
    """Recall of the values of keys; accuracy is reported per number of pairs."""

    task: Literal["mqar"] = "mqar"
    length: Count = 24
    """Tokens per sequence, at least 3 * pairs."""
    pairs: Count = 8
    """The most pairs; each sequence has its own number of them, uniform in 1 .. pairs."""
    keys: Annotated[Count, Field(ge=16)] = 32
    """The number of keys; those of one sequence are different."""
    values: Annotated[Count, Field(ge=16)] = 32
    """The number of values."""

    @property
    def vocab_needed(self) -> int:
        """Keys, values and padding."""
        return self.keys + self.values + 1

    @property
    def group_names(self) -> Mapping[int, str]:
        """A sequence's group is its number of pairs."""
        return {count: f"p{count}" for count in range(1, self.pairs + 1)}

    def problems(self, model: ModelSize) -> Iterator[Problem]:
        """Yield also where the pairs do not fit, or there are not as many keys."""
        yield from independent(super().problems(model), self._too_short(), self._too_few())

    def _too_short(self) -> Iterator[Problem]:
        if self.length < (least := 3 * self.pairs):
            yield Problem("length", f"at least 3 * pairs ({least})", self.length, "raise length")

    def _too_few(self) -> Iterator[Problem]:
        if self.keys < self.pairs:
            yield Problem("keys", f"at least pairs ({self.pairs})", self.keys)

    def stream(self, split: Split, seed: int) -> Stream:
        """Open the endless sequences of one split."""
        return MqarStream(self, split, seed)


class MqarStream:
    """Batches of mqar; in eval every number of pairs has the same share of each batch."""

    def __init__(self, config: Mqar, split: Split, seed: int) -> None:
        self.config, self.split, self.seed = config, split, seed

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`; its group is the number of pairs."""
        import numpy as np

        from composer.data.base.groups import groups, of_groups
        from composer.data.base.stream import IGNORED, Batch, generator

        config, rng = self.config, generator(self.split, self.seed, step)
        count = groups(self.split, step, size, 1, config.pairs, rng)
        tokens = of_groups(self.split, count, lambda some: self._pairs(rng, some))
        targets = np.full_like(tokens, IGNORED)
        for n in np.unique(count):
            mine = np.flatnonzero(count == n)
            order = rng.permuted(np.tile(np.arange(n), (len(mine), 1)), axis=1)
            again = slice(2 * n, 3 * n)
            tokens[mine, again] = np.take_along_axis(tokens[mine, : 2 * n : 2], order, axis=1)
            targets[mine, again] = np.take_along_axis(tokens[mine, 1 : 2 * n : 2], order, axis=1)
        return Batch(tokens, targets, count)

    def _pairs(self, rng: np.random.Generator, counts: Ints) -> Ints:
        """Draw pairs for each number of them [n] -> [n, length], without the keys that come again."""
        import numpy as np

        config = self.config
        rows = np.full((len(counts), config.length), config.keys + config.values)
        keys = rng.permuted(np.tile(np.arange(config.keys), (len(counts), 1)), axis=1)[:, : config.pairs]
        values = rng.integers(config.keys, config.keys + config.values, keys.shape)
        both = np.stack([keys, values], axis=2).reshape(len(counts), -1)
        inside = np.arange(both.shape[1]) < 2 * counts[:, None]
        rows[:, : both.shape[1]][inside] = both[inside]
        return rows
