"""Numbers of steps that differ between the rows of a batch, and how many steps then run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

from blocks.wiring.train import Phase
from composer.language.schema.spec import Spec
from composer.measures.limits import MemoryLimits


class RowSteps(int):
    """How many steps run where rows of a batch run different numbers: the largest of these.

    Attributes:
        rows: the number of steps of each row; empty where all run the largest.
    """

    rows: tuple[int, ...]

    def __new__(cls, most: int, rows: Iterable[int] = ()) -> RowSteps:
        """`most` is at least as large as each of `rows`."""
        made = super().__new__(cls, most)
        made.rows = (*rows,)
        return made


CallSteps: TypeAlias = int | Sequence[int] | Mapping[str, int | Sequence[int]]
"""Steps of one call: a number for the only recurrent stage or one for each row of the batch, or these by
place."""


def row_steps(value: int | Sequence[int], place: str) -> int:
    """Return a number of steps as it is, and a list with one for each row as `RowSteps`.

    Raises:
        ValueError: it is neither, or the list is empty or not of whole numbers above 0.
    """
    if isinstance(value, int):
        return value
    numbers = value if isinstance(value, Sequence) else ()
    if not numbers or not all(isinstance(each, int) and each >= 1 for each in numbers):
        raise ValueError(
            f"{place}: expected a number of steps, at least 1, or one for each row, got {value!r}"
        )
    return RowSteps(max(numbers), numbers)


def micro_batch_rows(spec: Spec) -> int:
    """Return the sequences of one micro-batch, on all devices together."""
    if spec.train is not None:
        return spec.train.batch_sequences // spec.train.accumulate
    cap = spec.caps.train_memory
    stated = cap.batch_tokens if isinstance(cap, MemoryLimits) else None
    return (stated or spec.model.context) // spec.model.context or 1


def largest_of(phase: Phase, rows: int) -> Phase:
    """Return the distribution of the largest of so many numbers that are drawn independently.

    With F(n) the probability of at most n, it is n with the probability F(n) ** rows - F(n - 1) ** rows.
    """
    reached: list[Any] = [min(1.0, end) ** rows for end in accumulate(phase.shares)]
    reached[-1] = 1.0
    return phase._replace(shares=[after - before for before, after in pairwise((0.0, *reached))])
