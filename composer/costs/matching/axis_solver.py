"""Solves for hidden sizes and numbers of experts, given all other sizes.

Parameters and FLOPs are affine in each of the two, memory nearly so. A few counted points therefore determine
the costs everywhere, and for a given hidden size the experts that meet all targets are an interval.
A solution is accepted only after its costs were counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import ceil, floor

from composer.costs.matching.choices import Axis, Combination
from composer.costs.matching.goal import NOWHERE, Costs, Goal, Score, Solution
from composer.costs.matching.shape import Limits, Sizes

# how far apart points are counted, and how often they are moved to where the solution seems to be
_APART = 0.25
_ROUNDS = 3

Levels = tuple[int, ...]


class AxisSolver:
    """Solver for the one or two axes of a base; without axes it only counts costs."""

    def __init__(self, limits: Limits, axes: Sequence[Axis], costs: Callable[[Sizes], Costs | None]) -> None:
        self._limits, self._axes, self._costs = limits, list(axes), costs
        self._plane: dict[tuple[Combination, Levels], _Plane | None] = {}
        self._start: Levels = tuple(axis.start for axis in axes)

    def solved(self, goal: Goal, combination: Combination, values: dict[str, int], coarse: float) -> Solution:
        """Return the best sizes for a goal; `values` are the given sizes, at a distance of `coarse`."""
        now = {**self._limits.base, **values}
        spans = [axis.levels(now) for axis in self._axes]
        best = Solution(NOWHERE, values)
        if any(low > high for low, high in spans):
            return best
        levels = tuple(min(max(at, low), high) for at, (low, high) in zip(self._start, spans, strict=True))
        for _ in range(_ROUNDS):
            plane = self._counted(combination, values, levels, spans)
            if plane is None:
                return best
            guess, levels = _best(goal, plane, self._axes, spans, levels, coarse)
            trial = self._at(goal, values, levels, coarse)
            best = min(best, trial, key=lambda solution: solution.score)
            if _alike(trial.score, guess):
                break
        if best.score.excess < NOWHERE.excess:
            self._start = levels
        return best

    def _at(self, goal: Goal, values: dict[str, int], levels: Levels, coarse: float) -> Solution:
        sizes = dict(values)
        way = coarse
        for axis, level in zip(self._axes, levels, strict=True):
            sizes |= axis.values(level)
            way += axis.distance(level)
        costs = self._costs(sizes) if self._limits.allow(sizes) else None
        return Solution(NOWHERE if costs is None else goal.score(costs, way), sizes)

    def _counted(
        self,
        combination: Combination,
        values: dict[str, int],
        levels: Levels,
        spans: Sequence[tuple[int, int]],
    ) -> _Plane | None:
        """Count costs at the corners of a small box around some levels; None if one of them is invalid."""
        ends = tuple(_ends(at, *span) for at, span in zip(levels, spans, strict=True))
        key = combination, tuple(low for low, _ in ends)
        if key not in self._plane:
            corners = []
            for chosen in product(*ends):
                sizes = dict(values)
                for axis, level in zip(self._axes, chosen, strict=True):
                    sizes |= axis.values(level)
                corners.append(self._costs(sizes))
            valid = [each for each in corners if each is not None]
            self._plane[key] = _Plane(ends, valid) if len(valid) == len(corners) else None
        return self._plane[key]


def _ends(at: int, low: int, high: int) -> tuple[int, int]:
    """Return two levels on either side of one, distinct where the range allows."""
    further = max(round(at * _APART), 1)
    first = min(at, max(high - further, low))
    return first, min(first + further, high)


def _alike(one: Score, other: Score) -> bool:
    """Whether the counted costs are as good as the expected ones."""
    return one.excess <= other.excess + 0.05 and one.left <= other.left + 1e-3


class _Plane:
    """Costs interpolated as products of affine functions of the levels, from the corners of a box."""

    def __init__(self, ends: Sequence[tuple[int, int]], corners: Sequence[Costs]) -> None:
        self.ends, self.corners = ends, corners

    def line(self, outer: int | None) -> tuple[Costs, Costs, tuple[int, int]]:
        """Return the costs at the two ends of the last axis, and these; `outer` is the level of the first."""
        if outer is None:
            below, above = self.corners
            return below, above, self.ends[0]
        (low, high), inner = self.ends
        share = (outer - low) / (high - low) if high > low else 0.0
        a, b, c, d = self.corners
        below = [x + share * (y - x) for x, y in zip(a, c, strict=True)]
        above = [x + share * (y - x) for x, y in zip(b, d, strict=True)]
        return below, above, inner


def _best(
    goal: Goal,
    plane: _Plane,
    axes: Sequence[Axis],
    spans: Sequence[tuple[int, int]],
    levels: Levels,
    coarse: float,
) -> tuple[Score, Levels]:
    """Return the best levels by the costs expected there, and their score."""
    if not axes:
        (costs,) = plane.corners
        return goal.score(costs, coarse), ()
    if len(axes) == 1:
        score, level = _on_line(goal, plane.line(None), axes[0], spans[0], coarse)
        return score, (level,)
    known: dict[int, tuple[Score, int]] = {}

    def at(level: int) -> tuple[Score, int]:
        if level not in known:
            way = coarse + axes[0].distance(level)
            known[level] = _on_line(goal, plane.line(level), axes[1], spans[1], way)
        return known[level]

    best = _least(levels[0], *spans[0], lambda level: at(level)[0])
    score, inner = at(best)
    return score, (best, inner)


def _least(start: int, low: int, high: int, score: Callable[[int], Score]) -> int:
    """Return the minimum of a unimodal score by steps of decreasing size from the start."""
    at, step = start, max((high - low) // 8, 1)
    while step:
        near = [level for level in (at - step, at + step) if low <= level <= high]
        nearer = min(near, key=score, default=at)
        if score(nearer) < score(at):
            at = nearer
        else:
            step //= 2
    return at


def _on_line(
    goal: Goal, line: tuple[Costs, Costs, tuple[int, int]], axis: Axis, span: tuple[int, int], way: float
) -> tuple[Score, int]:
    """Return the best level of the last axis, whose costs are affine in it, and its score."""
    below, above, (first, last) = line
    slopes = [(b - a) / (last - first) if last > first else 0.0 for a, b in zip(below, above, strict=True)]
    low, high = map(float, span)
    wanted = float(axis.start)
    tried: set[float] = set()
    for aim, cost, slope in zip(goal.aims, below, slopes, strict=True):
        if slope <= 0 or not (aim.held or aim.near):
            continue
        ends = [
            first + (end - cost) / slope for end in ((*aim.span, aim.value) if aim.held else (aim.value,))
        ]
        tried.update(ends)
        if aim.held:
            low, high = max(low, ends[0]), min(high, ends[1])
        else:
            wanted = ends[0]
    if ceil(low) <= floor(high):
        candidates = {min(max(round(wanted), ceil(low)), floor(high))}
    else:
        candidates = {
            round(min(max(each, span[0]), span[1])) for each in (*tried, low, high, (low + high) / 2)
        }

    def score(level: int) -> Score:
        costs = [cost + (level - first) * slope for cost, slope in zip(below, slopes, strict=True)]
        return goal.score(costs, way + axis.distance(level))

    best = min(sorted(candidates), key=score)
    return score(best), best
