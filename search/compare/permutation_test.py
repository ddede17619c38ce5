"""An exact permutation test for the difference of two means over a few seeds."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

LEVEL = 0.1
"""The p-value up to which a difference is called significant; the least that three results each allow."""
_MOST = 20_000


def permutation_test(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the two-sided p-value of the difference of two means (Fisher, 1935).

    That is the share of all splits of the pooled results into groups of these sizes whose means differ at
    least as much. Three results against three have 20 splits, so p is never below 0.1. Above 20,000 splits as
    many are sampled.
    """
    pool, size = [*one, *other], len(one)
    # in ten-billionths of the largest, so that the order of sums decides nothing
    grain = max(map(abs, pool), default=0.0) * 1e-10

    def apart(chosen: Sequence[int]) -> float:
        inside = set(chosen)
        rest = [value for i, value in enumerate(pool) if i not in inside]
        return abs(fmean(pool[i] for i in chosen) - fmean(rest))

    seen = apart(range(size)) - grain
    ways = math.comb(len(pool), size)
    if ways <= _MOST:
        as_far = [apart(chosen) >= seen for chosen in combinations(range(len(pool)), size)]
    else:
        rng = random.Random(0)
        as_far = [apart(rng.sample(range(len(pool)), size)) >= seen for _ in range(_MOST)]
    return sum(as_far) / len(as_far)


def smallest_p(one: int, other: int) -> float:
    """Return the smallest p-value that groups of these sizes can reach."""
    ways = math.comb(one + other, one)
    return (2 if one == other else 1) / ways
