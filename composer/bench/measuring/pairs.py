"""Contestants timed side by side, in changing order, so that what else the machine does hits all alike."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median, quantiles

import torch

from composer.bench.measuring.clocks import Clock, Run, wait, wall
from composer.graph.passes.self_test import in_a_line


class DeviceLost(RuntimeError):
    """The GPU takes no more work in this process; says after what."""


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
    contestants: MutableMapping[str, Run], rounds: int, warmup: int = 2, clock: Clock = wall
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Run every contestant once in each of some rounds, in an order drawn anew for each round.

    Returns the timings, and why those failed that could not run to the end: one that runs out of memory is
    no reason to hear nothing of the others. Who failed is taken from the contestants, with all it holds.
    """
    failed: dict[str, str] = {}
    found: dict[str, list[float]] = {name: [] for name in contestants}

    def tried(name: str, run: Run) -> None:
        if why := attempt(run):
            failed[name] = why
            del contestants[name], found[name]

    for name in [*contestants]:
        tried(name, lambda name=name: [contestants[name]() for _ in range(warmup)])  # type: ignore[misc]
    rng = random.Random(0)
    with _uncollected():
        for _ in range(rounds):
            names = [*contestants]
            rng.shuffle(names)
            for name in names:
                tried(name, lambda name=name: found[name].append(clock(contestants[name])))  # type: ignore[misc]
    return {name: Timing(tuple(each)) for name, each in found.items()}, failed


def let_go() -> None:
    """Free what nobody holds any more, on the device too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def attempt(run: Run) -> str:
    """Run something to its end; return why it failed, or "". What it held is let go of.

    Raises:
        DeviceLost: the GPU takes no more work after it, for nobody.
    """
    try:
        run()
        # what a kernel did wrong is told when somebody waits, and would be laid at the next one's door
        wait()
    except (torch.OutOfMemoryError, MemoryError):
        why = "out of memory"
    except DeviceLost:
        raise
    except Exception as error:  # of any kind: compilers and drivers have their own
        why = in_a_line(error)
        if "not enough memory" in why:
            why = "out of memory"
    else:
        return ""
    try:
        wait()
        let_go()
    except Exception:
        raise DeviceLost(why) from None
    return why


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage meanwhile, which takes time from whoever runs."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def ratio(one: Timing, other: Timing) -> Ratio:
    """Compare two that ran in the same rounds."""
    each = [a / b for a, b in zip(one.seconds, other.seconds, strict=True)]
    if len(each) < 2:
        return Ratio(each[0], each[0], each[0])
    low, middle, high = quantiles(each, n=4, method="inclusive")
    return Ratio(middle, low, high)
