"""Contestants timed side by side, in changing order, so that what else the machine does hits all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """How long one contestant took.

    Attributes:
        seconds: of each run, in the order of the rounds.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contestant took as another, round by round: the middle, and quartiles."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f}x ({self.low:.2f} to {self.high:.2f})"


def side_by_side(contestants: Mapping[str, Run], rounds: int, warmup: int = 2) -> dict[str, Timing]:
    """Run every contestant once in each of some rounds, in an order drawn anew for each round.

    On a GPU the clock stops when the device is done.
    """
    for run in contestants.values():
        for _ in range(warmup):
            run()
    rng, names = random.Random(0), list(contestants)
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        rng.shuffle(names)
        for name in names:
            found[name].append(_timed(contestants[name]))
    return {name: Timing(tuple(found[name])) for name in contestants}


def ratio(one: Timing, other: Timing) -> Ratio:
    """Compare two that ran in the same rounds."""
    each = [a / b for a, b in zip(one.seconds, other.seconds, strict=True)]
    if len(each) < 2:
        return Ratio(each[0], each[0], each[0])
    low, middle, high = quantiles(each, n=4, method="inclusive")
    return Ratio(middle, low, high)


def _timed(run: Run) -> float:
    _wait()
    begun = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
