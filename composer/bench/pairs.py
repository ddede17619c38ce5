"""Contestants timed side by side, in changing order, so that what else the machine does hits all alike."""

from __future__ import annotations

import gc
import random
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median, quantiles

import torch

from composer.bench.clocks import Clock, Run, wall


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

    @property
    def quartiles(self) -> tuple[float, float]:
        """What a quarter of the runs stayed below, and above."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Ratio:
    """How many times as long one contestant took as another, round by round: the middle, and quartiles."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f}x ({self.low:.2f} to {self.high:.2f})"


def side_by_side(
    contestants: Mapping[str, Run], rounds: int, warmup: int = 2, clock: Clock = wall
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Run every contestant once in each of some rounds, in an order drawn anew for each round.

    Returns the timings, and why those failed that could not run to the end: one that runs out of memory is
    no reason to hear nothing of the others.
    """
    failed: dict[str, str] = {}
    for name, run in contestants.items():
        if why := attempt(lambda run=run: [run() for _ in range(warmup)]):  # type: ignore[misc]
            failed[name] = why
    found: dict[str, list[float]] = {name: [] for name in contestants if name not in failed}
    rng = random.Random(0)
    for _ in range(rounds):
        names = [name for name in found if name not in failed]
        rng.shuffle(names)
        for name in names:
            if why := attempt(lambda name=name: found[name].append(clock(contestants[name]))):  # type: ignore[misc]
                failed[name] = why
    return {name: Timing(tuple(each)) for name, each in found.items() if name not in failed}, failed


def attempt(run: Run) -> str:
    """Run something; return why it failed, or "". What it held is let go of."""
    try:
        run()
    except (torch.OutOfMemoryError, MemoryError):
        why = "out of memory"
    except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
        lines = str(error).strip().splitlines()
        why = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        if "not enough memory" in why:
            why = "out of memory"
    else:
        return ""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return why


def ratio(one: Timing, other: Timing) -> Ratio:
    """Compare two that ran in the same rounds."""
    each = [a / b for a, b in zip(one.seconds, other.seconds, strict=True)]
    if len(each) < 2:
        return Ratio(each[0], each[0], each[0])
    low, middle, high = quantiles(each, n=4, method="inclusive")
    return Ratio(middle, low, high)
