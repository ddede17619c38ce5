"""Whole numbers at which a spec's measures meet targets: damped Gauss-Newton in ratios, then near neighbours.

Measures are smooth functions of sizes, nearly powers of them; so steps are taken in logarithms, rounded to
the knobs' grains, and what rounding leaves is mended by moving up to three knobs by a few grains. Everything
is deterministic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from itertools import combinations, islice, product
from math import exp, hypot, log
from typing import TypeAlias

from composer.costs.knobs import Knob

Point: TypeAlias = tuple[int, ...]
"""A value for each knob."""
Vector: TypeAlias = list[float]
Residuals: TypeAlias = Callable[[Point], Vector | None]
"""Residuals at a point, each in units of its tolerance; None where there is no valid spec."""

_ROUNDS = 40
_DAMPINGS = (1e-2, 1.0, 1e2, 1e4)
_LONGEST = log(2)
_NEAR = 2
_REACH = 8
_LOOKED_AT = 40
# what it costs, in tolerances, to change one knob e-fold
_CHANGE = 0.05


@dataclass(frozen=True)
class Problem:
    """Knobs, where they start, and what is to become 0."""

    knobs: Sequence[Knob]
    start: Point
    residuals: Residuals

    def score(self, point: Point) -> float | None:
        """Return how far a point is off, a little more the more it changes; None where it is invalid."""
        found = self.residuals(point)
        if found is None:
            return None
        moved = sum(abs(log(now / knob.value)) for now, knob in zip(point, self.knobs, strict=True))
        return hypot(*found) + _CHANGE * moved


def solve(problem: Problem) -> Point:
    """Return the best point found from the start, which is a valid one."""
    point = problem.start
    for _ in range(_ROUNDS):
        further = _newton(problem, point) or _mended(problem, point)
        if further is None:
            return point
        point = further
    return point


def _newton(problem: Problem, point: Point) -> Point | None:
    """Return the best of the damped steps from a point, if it is better."""
    residuals = problem.residuals(point)
    slopes = _slopes(problem, point)
    assert residuals is not None
    steps = (_step(slopes, residuals, damping) for damping in _DAMPINGS)
    return _better(problem, point, [_rounded(problem, point, step) for step in steps])


def _better(problem: Problem, point: Point, trials: Sequence[Point]) -> Point | None:
    """Return the best of some points, if it is better than `point`."""
    scored = [(score, trial) for trial in trials if (score := problem.score(trial)) is not None]
    before = problem.score(point)
    assert before is not None
    score, best = min(scored, default=(before, point))
    return best if score < before - 1e-9 else None


def _slopes(problem: Problem, point: Point) -> list[Vector]:
    """Return for each knob the change of every residual per e-fold, from its valid neighbours."""
    here = problem.residuals(point)
    assert here is not None
    found = []
    for i in range(len(point)):
        ends = [(point[i], here)]
        for value in _moves(problem, point, i):
            if (there := problem.residuals(_replaced(point, [i], [value]))) is not None:
                ends.append((value, there))
        (low, below), (high, above) = min(ends, key=_first), max(ends, key=_first)
        way = log(high / low) if high > low else 1.0
        found.append([(b - a) / way for a, b in zip(below, above, strict=True)])
    return found


def _first(end: tuple[int, Vector]) -> int:
    return end[0]


def _step(slopes: Sequence[Vector], residuals: Vector, damping: float) -> Vector:
    """Return the step in logarithms that minimises |residuals + slopes x|^2 + damping |x|^2."""
    # as many equations as measures: x = -S^T (S S^T + damping)^-1 r
    size = len(residuals)
    matrix = [
        [sum(slope[a] * slope[b] for slope in slopes) + damping * (a == b) for b in range(size)]
        for a in range(size)
    ]
    weights = _solved(matrix, residuals)
    step = [-sum(s * w for s, w in zip(slope, weights, strict=True)) for slope in slopes]
    longest = max(map(abs, step), default=0.0)
    return [x * min(1.0, _LONGEST / longest) if longest else 0.0 for x in step]


def _solved(matrix: list[Vector], right: Vector) -> Vector:
    """Solve a small symmetric positive system."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda r: abs(rows[r][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for other in range(len(rows)):
            if other != i and rows[i][i]:
                factor = rows[other][i] / rows[i][i]
                rows[other] = [a - factor * b for a, b in zip(rows[other], rows[i], strict=True)]
    return [row[-1] / row[i] if row[i] else 0.0 for i, row in enumerate(rows)]


def _rounded(problem: Problem, point: Point, step: Vector) -> Point:
    """Take a step, knob by knob, each to the valid value nearest to where it should go."""
    found = point
    for i, knob in enumerate(problem.knobs):
        wanted = point[i] * exp(step[i])
        for value in _around(wanted, knob.grain, point[i]):
            trial = (*found[:i], value, *found[i + 1 :])
            if problem.residuals(trial) is not None:
                found = trial
                break
    return found


def _around(wanted: float, grain: int, now: int) -> list[int]:
    """Return values near a number, nearest first; the present value is one of them."""
    middle = round(wanted / grain) * grain
    values = {now, *(middle + times * grain for times in range(-6, 7))}
    return sorted((value for value in values if value >= 1), key=lambda value: (abs(value - wanted), value))


def _mended(problem: Problem, point: Point) -> Point | None:
    """Return the best move of up to three knobs by a few valid values, if it is better.

    Which moves are worth costing is judged by slopes.
    """
    here = problem.residuals(point)
    assert here is not None
    slopes = _slopes(problem, point)
    moves = [
        [(value, [log(value / now) * slope for slope in slopes[i]]) for value in _moves(problem, point, i)]
        for i, now in enumerate(point)
    ]
    near = nsmallest(_LOOKED_AT, _guesses(here, moves))
    return _better(problem, point, [_replaced(point, chosen, values) for _, chosen, values in near])


def _guesses(
    here: Vector, moves: Sequence[Sequence[tuple[int, Vector]]]
) -> Iterator[tuple[float, tuple[int, ...], tuple[int, ...]]]:
    """Yield how far off each move of up to three knobs should be, the knobs, and their values."""
    for count in (1, 2, 3):
        for chosen in combinations(range(len(moves)), count):
            for picked in product(*(moves[i] for i in chosen)):
                values, changes = zip(*picked, strict=True)
                yield hypot(*map(sum, zip(here, *changes, strict=True))), chosen, values


def _moves(problem: Problem, point: Point, i: int) -> list[int]:
    """Return the few valid values of one knob nearest to its present one, on either side."""
    found: list[int] = []
    for side in (-1, 1):
        grain = side * problem.knobs[i].grain
        values = (point[i] + times * grain for times in range(1, _REACH + 1))
        valid = (v for v in values if v >= 1 and problem.residuals(_replaced(point, [i], [v])) is not None)
        found += islice(valid, _NEAR)
    return found


def _replaced(point: Point, places: Sequence[int], values: Sequence[int]) -> Point:
    new = dict(zip(places, values, strict=True))
    return tuple(new.get(i, value) for i, value in enumerate(point))
