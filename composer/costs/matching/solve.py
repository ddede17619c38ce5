"""Finds the nearest sizes within bounds at which costs meet their targets.

The width, the heads and the active experts are options that are tried from the nearest on; for each
combination of them `axis_solver` solves for hidden sizes and numbers of experts. If the nearest combinations
have no solution, a descent over the options looks farther. The search is deterministic and tries a bounded
number of combinations, so a solution far from the base can be missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import product
from math import ceil
from operator import attrgetter

from composer.costs.matching.axis_solver import AxisSolver
from composer.costs.matching.choices import Axis, Combination, Option
from composer.costs.matching.goal import NOWHERE, Costs, Goal, Solution
from composer.costs.matching.shape import Limits, Sizes

# combinations looked at: the nearest ones at first, and those nearer than a solution
_FIRST, _NEARER = 120, 1500
# how many options of each dimension make the sample, from how many of it a descent starts, and how often
_SAMPLE, _STARTS, _SWEEPS = (5, 6, 3, 3), 2, 5


class Search:
    """A search for sizes: its options and axes, and the function that counts costs."""

    def __init__(
        self,
        limits: Limits,
        dimensions: Sequence[Sequence[Option]],
        axes: Sequence[Axis],
        costs: Callable[[Sizes], Costs | None],
    ) -> None:
        self._dimensions, self._limits = dimensions, limits
        self._axis_solver = AxisSolver(limits, axes, costs)
        self._solved: dict[tuple[Goal, Combination], Solution] = {}

    def nearest(self, goal: Goal) -> Solution:
        """Return the sizes nearest to the base that meet a goal, or those that come closest to the goal."""
        best = self._looked_through(goal, _FIRST, Solution(NOWHERE, {}))
        if not best.score.met:
            best = min(best, self._descended(goal), key=attrgetter("score"))
        if best.score.met:
            best = self._looked_through(goal, _NEARER, best)
        return best

    def _at(self, goal: Goal, combination: Combination) -> Solution:
        key = goal, combination
        if key not in self._solved:
            values: dict[str, int] = {}
            for options, i in zip(self._dimensions, combination, strict=True):
                values |= options[i].values
            solution = Solution(NOWHERE, values)
            if self._limits.attention_fits(values):
                solution = self._axis_solver.solved(goal, combination, values, self._coarse(combination))
            self._solved[key] = solution
        return self._solved[key]

    def _coarse(self, combination: Combination) -> float:
        """Return the distance of a combination without its axes."""
        return sum(options[i].distance for options, i in zip(self._dimensions, combination, strict=True))

    def _looked_through(self, goal: Goal, most: int, best: Solution) -> Solution:
        """Return the best combination, tried in order of distance while a nearer one is possible."""
        for count, combination in enumerate(self._ordered()):
            if count >= most or (best.score.met and self._coarse(combination) >= best.score.distance):
                break
            best = min(best, self._at(goal, combination), key=attrgetter("score"))
        return best

    def _ordered(self) -> Iterator[Combination]:
        """Yield combinations, nearest first."""
        first = (0,) * len(self._dimensions)
        waiting, seen = [(0.0, first)], {first}
        while waiting:
            _, combination = heappop(waiting)
            yield combination
            for i, at in enumerate(combination):
                if at + 1 < len(self._dimensions[i]):
                    following = (*combination[:i], at + 1, *combination[i + 1 :])
                    if following not in seen:
                        seen.add(following)
                        heappush(waiting, (self._coarse(following), following))

    def _descended(self, goal: Goal) -> Solution:
        """Return the best combination found by coordinate descent from the best of a sample."""
        sample = sorted(self._sampled(), key=lambda combination: self._at(goal, combination).score)
        return min((self._descent(goal, start) for start in sample[:_STARTS]), key=attrgetter("score"))

    def _sampled(self) -> Iterator[Combination]:
        spread = []
        for i, options in enumerate(self._dimensions):
            count = min(_SAMPLE[min(i, len(_SAMPLE) - 1)], len(options))
            ordered = sorted(range(len(options)), key=lambda at: options[at].order)
            picked = {ordered[ceil(n * (len(options) - 1) / max(count - 1, 1))] for n in range(count)}
            spread.append(sorted({0, *picked}))
        yield from product(*spread)

    def _descent(self, goal: Goal, at: Combination) -> Solution:
        for _ in range(_SWEEPS):
            before = at
            for i, options in enumerate(self._dimensions):
                trials = [(*at[:i], option, *at[i + 1 :]) for option in range(len(options))]
                at = min(trials, key=lambda trial: self._at(goal, trial).score)
            if at == before or self._at(goal, at).score.met:
                break
        return self._at(goal, at)
