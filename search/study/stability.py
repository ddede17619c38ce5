"""How alike the arms of a study rank at different budgets and sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import TypeAlias

from search.compare.kendall import kendall
from search.study.load import StudyArm
from search.study.plan import Results, score

_FEWEST = 3
"""Fewer arms than this have no ranking to speak of."""
Point: TypeAlias = tuple[int, str]
"""A budget and a size."""


@dataclass(frozen=True)
class Stability:
    """Kendall's tau-b between the rankings at two points, over the arms that have scores at both."""

    one: Point
    other: Point
    arms: int
    tau: float


def stability(results: Results) -> Iterator[Stability]:
    """Yield it between the largest and every smaller budget, and between sizes at the largest budget."""
    budgets, sizes = results.plan.config.budgets, results.plan.study.sizes
    last = budgets[-1]
    pairs: list[tuple[Point, Point]] = [((b, size), (last, size)) for size in sizes for b in budgets[:-1]]
    pairs += [((last, one), (last, other)) for one, other in pairwise(sizes)]
    for one, other in pairs:
        both = [
            (a, b)
            for name in results.plan.config.arms
            if (a := _mean(results, name, one)) is not None and (b := _mean(results, name, other)) is not None
        ]
        if len(both) >= _FEWEST:
            yield Stability(one, other, len(both), kendall([a for a, _ in both], [b for _, b in both]))


def _mean(results: Results, name: str, point: Point) -> float | None:
    budget, size = point
    arm: StudyArm = next(a for a in results.plan.study.arms if (a.name, a.size) == (name, size))
    scores = [score(row, results.plan.config.measure) for row in results.fresh(arm, budget).values()]
    return fmean(scores) if scores else None
