"""Whether a difference between a few results may be chance: an exact permutation test."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

LEVEL = 0.1
"""The share of ways to deal out the results up to which a difference counts as more than chance."""
_MOST = 20_000


def chance(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the share of ways to deal all results to two groups that part the means at least as far.

    Both directions count, the groups keep their sizes (Fisher, 1935). Three results against three part in 20
    ways, of which 2 are wholly in order, so no share is below 0.1. Above 20,000 ways as many are drawn.
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
        found = [apart(chosen) >= seen for chosen in combinations(range(len(pool)), size)]
    else:
        rng = random.Random(0)
        found = [apart(rng.sample(range(len(pool)), size)) >= seen for _ in range(_MOST)]
    return sum(found) / len(found)


def smallest(one: int, other: int) -> float:
    """Return the least share that so many results can come to: with too few, nothing is beyond chance."""
    ways = math.comb(one + other, one)
    return (2 if one == other else 1) / ways
