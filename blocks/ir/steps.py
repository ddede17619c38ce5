"""Subsets of the steps of a loop, and counts of their steps. Torch-free."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Steps:
    """A subset of the steps of a loop, as a Python slice `start:stop:step` with a step of at least 1.

    Negative numbers count from the end, and steps beyond the last are ignored, so the subset depends on the
    number of steps.
    """

    start: int | None = None
    stop: int | None = None
    step: int = 1

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"steps: expected a stride of at least 1, got {self.step}")

    @classmethod
    def parse(cls, text: str) -> Steps:
        """Return the steps of a slice such as `1::3`."""
        start, stop, step = (int(part) if part else None for part in f"{text}:".split(":")[:3])
        return cls(start or None, stop, step or 1)

    def among(self, trips: int) -> range:
        """Return the step numbers in ascending order for a loop of `trips` steps."""
        return range(trips)[self.start : self.stop : self.step]

    def __str__(self) -> str:
        start, stop = ("" if each is None else str(each) for each in (self.start, self.stop))
        return f"{start}:{stop}" + (f":{self.step}" if self.step != 1 else "")


class OneStep(NamedTuple):
    """Replaces the trip count of a loop where a cost is that of a single step."""

    step: int


class StepCount(NamedTuple):
    """A term of a loop index: `stride` times the number of `steps` before the current step of a loop.

    Attributes:
        loop: the index name of the loop.
        steps: the steps that are counted.
        stride: the factor.
        inclusive: whether the current step counts as well.
    """

    loop: str
    steps: Steps
    stride: int
    inclusive: bool = False

    def at(self, step: int, trips: int) -> int:
        """Return the value at one step of a loop of `trips` steps."""
        bisect = bisect_right if self.inclusive else bisect_left
        return self.stride * bisect(self.steps.among(trips), step)

    def mean(self, trips: int) -> float:
        """Return the mean over all steps of a loop of `trips` steps."""
        later = sum(trips - step - (not self.inclusive) for step in self.steps.among(trips))
        return self.stride * later / trips

    def __str__(self) -> str:
        counted = f"steps {self.steps} {'up to' if self.inclusive else 'before'} {self.loop}"
        return f"({counted})" if self.stride == 1 else f"{self.stride}*({counted})"
