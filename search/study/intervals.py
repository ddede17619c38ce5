"""Intervals and tests for a few seeds.

The standard error of a statistic is that of the bootstrap over seeds, which is too small by sqrt((n - 1) / n)
for n of them; it is corrected, and Student's t takes the place of the normal distribution (Hesterberg, 2015,
"What teachers should know about the bootstrap", arXiv 1411.5279). With three seeds percentiles of the
bootstrap alone would be far too narrow. Without numpy or scipy.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from statistics import fmean
from typing import TypeVar

SAMPLES = 2000
"""Bootstrap samples, unless all can be listed with fewer."""
LEVEL = 0.05
"""The error rate of intervals and verdicts."""
MOST_SEEDS = 100
"""More seeds than this are not asked for."""

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A statistic, with its standard error and the number of seeds that it rests on."""

    value: float
    error: float
    seeds: int

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the interval that holds the truth but for a share of `level` of all studies."""
        if self.seeds < 2:
            return -math.inf, math.inf
        far = t_quantile(1 - level / 2, self.seeds - 1) * self.error
        return self.value - far, self.value + far

    def p(self, truth: float) -> float:
        """Return the two-sided p-value of a truth."""
        if self.seeds < 2:
            return 1.0
        away = abs(self.value - truth)
        if self.error == 0:
            return 0.0 if away else 1.0
        return 2 * (1 - t_cumulative(away / self.error, self.seeds - 1))

    def seeds_for(self, truth: float, level: float = LEVEL) -> int | None:
        """Return how many seeds would tell the value from a truth if both stayed where they are.

        None if more than `MOST_SEEDS`, or with one seed, which has no spread.
        """
        away, spread = abs(self.value - truth), self.error * math.sqrt(self.seeds)
        if self.seeds < 2:
            return None
        enough = (
            n
            for n in range(2, MOST_SEEDS + 1)
            if t_quantile(1 - level / 2, n - 1) * spread / math.sqrt(n) < away
        )
        return next(enough, None)


def bootstrap(
    one: Mapping[_Key, Sequence[float]],
    other: Mapping[_Key, Sequence[float]],
    statistic: Callable[[Sequence[Sequence[float]], Sequence[Sequence[float]]], float],
) -> Estimate:
    """Estimate a statistic of two groups of results by seed, and its standard error.

    The statistic must not depend on the order of the seeds.

    Seeds that both have are resampled in pairs, since they have the data and some initial weights in common.
    With fewer than two such seeds there is no error.
    """
    both = [key for key in one if key in other]
    count = len(both)
    if not count:
        raise ValueError("no seed in common")

    def at(seeds: Sequence[_Key]) -> float:
        return statistic([one[seed] for seed in seeds], [other[seed] for seed in seeds])

    value = at(both)
    if count == 1:
        return Estimate(value, math.inf, 1)
    if math.comb(2 * count - 1, count) <= SAMPLES:
        # every sample there can be, whose order does not matter
        chosen = list(combinations_with_replacement(both, count))
        weights = [1 / math.prod(math.factorial(n) for n in Counter(seeds).values()) for seeds in chosen]
    else:
        rng = random.Random(0)
        chosen = [tuple(rng.choices(both, k=count)) for _ in range(SAMPLES)]
        weights = [1.0] * SAMPLES
    drawn = [at(seeds) for seeds in chosen]
    mean = fmean(drawn, weights)
    variance = fmean([(each - mean) ** 2 for each in drawn], weights)
    return Estimate(value, math.sqrt(variance * count / (count - 1)), count)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, most = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = most
    return adjusted


def t_cumulative(t: float, freedom: int) -> float:
    """Return the cumulative distribution of Student's t, in closed form (Abramowitz & Stegun, 26.7.3-4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cos, sin = math.cos(angle), math.sin(angle)
    if freedom % 2:
        term, total = cos, 0.0
        for k in range(1, (freedom - 1) // 2 + 1):
            total += term
            term *= cos * cos * 2 * k / (2 * k + 1)
        inside = 2 / math.pi * (angle + sin * total)
    else:
        term, total = 1.0, 0.0
        for k in range(1, freedom // 2 + 1):
            total += term
            term *= cos * cos * (2 * k - 1) / (2 * k)
        inside = sin * total
    return (1 + inside) / 2


def t_quantile(share: float, freedom: int) -> float:
    """Return the quantile of Student's t, for shares of at least a half, by bisection."""
    low, high = 0.0, 1.0
    while t_cumulative(high, freedom) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cumulative(middle, freedom) < share else (low, middle)
    return (low + high) / 2
