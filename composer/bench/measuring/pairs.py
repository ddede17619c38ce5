"""Timing contestants side by side in random order, so that other load affects all alike."""

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
    """The GPU accepts no more work in this process; the message says after which call."""


@dataclass(frozen=True)
class Timing:
    """The times of one contestant.

    Attributes:
        seconds: of each run, in the order of the rounds.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The lower and the upper quartile."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return low, high


@dataclass(frozen=True)
class Ratio:
    """The ratio of two contestants' times, round by round: median and quartiles."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f}x ({self.low:.2f} to {self.high:.2f})"


def side_by_side(
    contestants: MutableMapping[str, Run], rounds: int, warmup: int = 2, clock: Clock = wall
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Run every contestant once per round, in a new random order each round.

    Returns the timings, and the reason for each contestant that failed: one that runs out of memory does
    not end the others. A failed contestant is removed and its memory freed.
    """
    failed: dict[str, str] = {}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}

    def tried(name: str, run: Run) -> None:
        if why := attempt(run):
            failed[name] = why
            del contestants[name], seconds[name]

    for name in [*contestants]:
        tried(name, lambda name=name: [contestants[name]() for _ in range(warmup)])  # type: ignore[misc]
    rng = random.Random(0)
    with _uncollected():
        for _ in range(rounds):
            names = [*contestants]
            rng.shuffle(names)
            for name in names:
                tried(name, lambda name=name: seconds[name].append(clock(contestants[name])))  # type: ignore[misc]
    return {name: Timing(tuple(each)) for name, each in seconds.items()}, failed


def let_go() -> None:
    """Free unreferenced memory, also on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def attempt(run: Run) -> str:
    """Run something to its end; return why it failed, or "". Its memory is freed.

    Raises:
        DeviceLost: the GPU accepts no more work after it.
    """
    try:
        run()
        # a kernel's error surfaces at the next synchronization, where it would be blamed on another
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
    """Disable garbage collection within the context, since it would distort timings."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def ratio(one: Timing, other: Timing) -> Ratio:
    """Return the ratio of two contestants of the same rounds."""
    each = [a / b for a, b in zip(one.seconds, other.seconds, strict=True)]
    if len(each) < 2:
        return Ratio(each[0], each[0], each[0])
    low, middle, high = quantiles(each, n=4, method="inclusive")
    return Ratio(middle, low, high)
