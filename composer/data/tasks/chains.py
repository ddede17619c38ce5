"""chains: arithmetic from left to right modulo 7, a known number of steps long.

A sequence is `x op y op y .. =` and padding, where op is one of + - * and each step is applied to the
result so far. The target at `=` is the value; nothing else is scored.

Token ids: the numbers are 0 .. modulus - 1, then + - *, `=` and the padding.
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


class Chains(DataConfig):
    """Chains of arithmetic modulo a number; accuracy is reported per number of steps."""

    task: Literal["chains"] = "chains"
    length: Count = 20
    """Tokens per sequence, at least 2 * steps + 2."""
    modulus: Annotated[Count, Field(ge=5)] = 7
    """Numbers are 0 .. modulus - 1. Products with 0 make the value 0 more common than others."""
    steps: Annotated[Count, Field(ge=2)] = 8
    """The most steps; each sequence has its own number of them, uniform in 2 .. steps."""

    @property
    def vocab_needed(self) -> int:
        """The numbers, three operators, `=` and padding."""
        return self.modulus + 5

    @property
    def group_names(self) -> Mapping[int, str]:
        """A sequence's group is its number of steps."""
        return {count: f"s{count}" for count in range(2, self.steps + 1)}

    def problems(self, model: ModelSize) -> Iterator[Problem]:
        """Yield also where the longest chain does not fit."""
        yield from independent(super().problems(model), self._too_short())

    def _too_short(self) -> Iterator[Problem]:
        if self.length < (least := 2 * self.steps + 2):
            yield Problem("length", f"at least 2 * steps + 2 ({least})", self.length, "raise length")

    def stream(self, split: Split, seed: int) -> Stream:
        """Open the endless sequences of one split."""
        return ChainsStream(self, split, seed)


class ChainsStream:
    """Batches of chains; in eval every number of steps has the same share of each batch."""

    def __init__(self, config: Chains, split: Split, seed: int) -> None:
        self.config, self.split, self.seed = config, split, seed

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`; its group is the number of steps."""
        import numpy as np

        from composer.data.base.groups import groups, of_groups
        from composer.data.base.stream import IGNORED, Batch, generator

        config, rng = self.config, generator(self.split, self.seed, step)
        count = groups(self.split, step, size, 2, config.steps, rng)
        tokens = of_groups(self.split, count, lambda some: self._chains(rng, some))
        value = tokens[:, 0]
        for i in range(config.steps):
            sign, y = tokens[:, 2 * i + 1] - config.modulus, tokens[:, 2 * i + 2]
            applied = np.choose(sign.clip(0, 2), [value + y, value - y, value * y]) % config.modulus
            value = np.where(i < count, applied, value)
        targets = np.full_like(tokens, IGNORED)
        targets[np.arange(size), 2 * count + 1] = value
        return Batch(tokens, targets, count)

    def _chains(self, rng: np.random.Generator, counts: Ints) -> Ints:
        """Draw a chain for each number of steps [n] -> [n, length]."""
        import numpy as np

        config, place = self.config, np.arange(self.config.length)
        numbers, signs = (rng.integers(0, most, (len(counts), config.length)) for most in (config.modulus, 3))
        rows = np.where(place % 2 == 0, numbers, config.modulus + signs)
        end = 2 * counts[:, None] + 1
        rows = np.where(place == end, config.modulus + 3, rows)
        return np.where(place > end, config.modulus + 4, rows)
