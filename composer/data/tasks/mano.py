"""mano: prefix expressions modulo a number, of known depth (after Allen-Zhu 2025, "Canon layers").

A sequence is `<l> expression <ans>` and padding, where the expression has l operators from + - * in
prefix notation, l uniform in 1 .. operators; a uniform share of the operators left goes to the left operand.
The target at `<ans>` is the value; nothing else is scored.

Token ids: the numbers are 0 .. modulus - 1, then the three operators, `<ans>`, the padding, and `<l>` for
each l.
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


class Mano(DataConfig):
    """Prefix expressions modulo a number; accuracy is reported per number of operators."""

    task: Literal["mano"] = "mano"
    length: Count = 24
    """Tokens per sequence, at least 2 * operators + 3."""
    modulus: Annotated[Count, Field(ge=11)] = 23
    """Numbers are 0 .. modulus - 1; at least 11, so that short expressions differ. Products make 0 common."""
    operators: Count = 10
    """The most operators of an expression; each has its own number, uniform in 1 .. operators."""

    @property
    def vocab_needed(self) -> int:
        """Numbers, operators, `<ans>`, padding, and a token for each number of operators."""
        return self.modulus + 5 + self.operators

    @property
    def group_names(self) -> Mapping[int, str]:
        """A sequence's group is its number of operators."""
        return {count: f"l{count}" for count in range(1, self.operators + 1)}

    def problems(self, model: ModelSize) -> Iterator[Problem]:
        """Yield also where the longest expression does not fit."""
        yield from independent(super().problems(model), self._too_short())

    def _too_short(self) -> Iterator[Problem]:
        if self.length < (least := 2 * self.operators + 3):
            yield Problem("length", f"at least 2 * operators + 3 ({least})", self.length, "raise length")

    def stream(self, split: Split, seed: int) -> Stream:
        """Open the endless sequences of one split."""
        return ManoStream(self, split, seed)


class ManoStream:
    """Batches of mano; in eval every number of operators has the same share of each batch."""

    def __init__(self, config: Mano, split: Split, seed: int) -> None:
        self.config, self.split, self.seed = config, split, seed

    def batch(self, step: int, size: int) -> Batch:
        """Batch number `step`; its group is the number of operators."""
        import numpy as np

        from composer.data.base.groups import groups, of_groups
        from composer.data.base.stream import IGNORED, Batch, generator

        config, rng = self.config, generator(self.split, self.seed, step)
        counts = groups(self.split, step, size, 1, config.operators, rng)
        rows = of_groups(self.split, counts, lambda some: self._expressions(rng, some))
        ends = 2 * counts + 2  # where `<ans>` stands
        tokens = rows.copy()
        tokens[np.arange(size), ends] = config.modulus + 3
        targets = np.full((size, config.length), IGNORED)
        for row, (end, count) in enumerate(zip(ends.tolist(), counts.tolist(), strict=True)):
            targets[row, end] = evaluate(rows[row, 1 : 2 * count + 2].tolist(), config.modulus)
        return Batch(tokens, targets, counts)

    def _expressions(self, rng: np.random.Generator, counts: Ints) -> Ints:
        """Draw an expression for each number of operators [n] -> [n, length], padded, without `<ans>`."""
        import numpy as np

        config = self.config
        rows = np.full((len(counts), config.length), config.modulus + 4)
        rows[:, 0] = config.modulus + 4 + counts
        for row, count in zip(rows, counts.tolist(), strict=True):
            row[1 : 2 * count + 2] = _expression(rng, count, config.modulus)
        return rows


def _expression(rng: np.random.Generator, operators: int, modulus: int) -> list[int]:
    """Draw one expression in prefix notation; operators are modulus + 0, 1, 2 for + - *."""
    tokens: list[int] = []
    waiting = [operators]
    while waiting:
        left = waiting.pop()
        if left == 0:
            tokens.append(int(rng.integers(modulus)))
            continue
        tokens.append(modulus + int(rng.integers(3)))
        first = int(rng.integers(left))
        waiting += [left - 1 - first, first]
    return tokens


def evaluate(expression: list[int], modulus: int) -> int:
    """Evaluate prefix notation, read from its end."""
    values: list[int] = []
    for token in reversed(expression):
        if token < modulus:
            values.append(token)
            continue
        a, b = values.pop(), values.pop()
        values.append((a + b, a - b, a * b)[token - modulus] % modulus)
    (value,) = values
    return value
