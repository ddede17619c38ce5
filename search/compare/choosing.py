"""Choices among good candidates: the order of finalists, the winner, and the knee of the Pareto front.

All of them look first at the primary objective, the first one that training measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Generic, Literal, TypeAlias, TypeVar

from search.objectives import Goals, Values

CLOSE = 0.1
"""The share of a front's range up to which two candidates count as close in an objective."""

Key = TypeVar("Key")
Basis: TypeAlias = Literal["seeds", "rates", "search"]
"""The basis of a choice: fresh seeds, the best learning rate of each, or the runs of the search."""


@dataclass(frozen=True)
class Choice(Generic[Key]):
    """A winner, and why.

    Attributes:
        winner: the candidate chosen.
        best: the one with the best mean in the primary objective.
        error: the standard error of that mean, up to which others count as equally good; None with one
            objective, and where no candidate has two results.
    """

    winner: Key
    best: Key
    error: float | None
    basis: Basis


def choose(
    goals: Goals, results: Mapping[Key, Sequence[Values]], basis: Basis = "seeds"
) -> Choice[Key] | None:
    """Choose the winner by the one-standard-error rule (Breiman et al., 1984); None without candidates.

    Of the candidates whose mean in the primary objective is within one standard error of the best mean, the
    winner is the best in the other objectives, taken in order. The standard error is that of the best mean,
    its variance pooled over all candidates with two or more results. With one objective, and where no
    candidate has two results, the winner is the best mean itself.

    Args:
        results: for each candidate the objectives of each of its runs.
        basis: which runs these are.
    """
    means = {
        key: goals.primary_first(goals.ascending(tuple(map(fmean, zip(*runs, strict=True)))))
        for key, runs in results.items()
    }
    if not means:
        return None
    best = max(means, key=means.__getitem__)
    error = _standard_error(goals, results, len(results[best]))
    if error is None or len(goals.objectives) == 1:
        return Choice(best, best, None, basis)
    equal = [key for key, mean in means.items() if mean[0] >= means[best][0] - error]
    return Choice(max(equal, key=lambda key: (means[key][1:], means[key][0])), best, error, basis)


def _standard_error(goals: Goals, results: Mapping[Key, Sequence[Values]], runs: int) -> float | None:
    columns = [[values[goals.first_measured] for values in each] for each in results.values()]
    several = [column for column in columns if len(column) > 1]
    freedom = sum(len(column) - 1 for column in several)
    if not freedom:
        return None
    pooled = sum((len(column) - 1) * variance(column) for column in several) / freedom
    return math.sqrt(pooled / runs)


def knee(goals: Goals, front: Mapping[Key, Values]) -> Key | None:
    """Return the knee of a front: the point farthest beyond the line that joins its ends.

    With each objective scaled to the range of the front, that is the largest sum of all objectives, for any
    number of them. None below three different points, and with one objective.
    """
    if len(goals.objectives) == 1 or len(set(front.values())) < 3:
        return None
    scaled = rescaled([goals.ascending(values) for values in front.values()])
    sums = dict(zip(front, map(math.fsum, scaled), strict=True))
    return max(sums, key=sums.__getitem__)


def spread(goals: Goals, front: Mapping[Key, Values]) -> list[Key]:
    """Order the points of a front, from the best in the primary objective, near copies last.

    A near copy is within a tenth of the front's range of an earlier point in each of the other objectives: of
    two candidates with almost the same cost the rule for the winner needs one.
    """
    points = {key: goals.primary_first(goals.ascending(values)) for key, values in front.items()}
    order = sorted(points, key=points.__getitem__, reverse=True)
    if len(goals.objectives) == 1:
        return order
    scaled = dict(zip(order, rescaled([points[key][1:] for key in order]), strict=True))
    chosen: list[Key] = []
    for key in order:
        if not any(_close(scaled[key], scaled[other]) for other in chosen):
            chosen.append(key)
    return [*chosen, *(key for key in order if key not in chosen)]


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(abs(a - b) <= CLOSE for a, b in zip(one, other, strict=True))


def rescaled(points: Sequence[Values]) -> list[Values]:
    """Scale each objective to 0 for the worst of the points and 1 for the best; 0 where all are equal."""
    columns = []
    for column in zip(*points, strict=True):
        low, span = min(column), max(column) - min(column) or 1.0
        columns.append([(value - low) / span for value in column])
    return list(zip(*columns, strict=True))
