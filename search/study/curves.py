"""Held-out scores against a cost, and how much one arm needs of it to equal another.

Curves go through the mean scores at each budget, on a logarithmic axis of cost. The nearest non-decreasing
curve is taken (isotonic regression, by pooling adjacent violators), so that noise between two budgets cannot
be read as a score that was reached early. All scores are such that higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """The scores of one arm over ascending costs."""

    costs: Sequence[float]
    scores: Sequence[float]

    def rising(self) -> Curve:
        """Return the nearest curve that never falls."""
        pools: list[tuple[float, int]] = []
        for value in self.scores:
            pools.append((value, 1))
            while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
                (a, m), (b, n) = pools.pop(-2), pools.pop()
                pools.append(((a * m + b * n) / (m + n), m + n))
        return Curve(self.costs, [value for value, count in pools for _ in range(count)])

    def log_cost(self, score: float) -> float:
        """Return the logarithm of the least cost at which a curve that never falls has a score.

        Before its first point the curve is continued at its first slope, at most as far again as it is long,
        so that noise there is seen; what is below the first cost is only a bound.
        """
        logs = [math.log(cost) for cost in self.costs]
        if score <= self.scores[0]:
            reach = logs[-1] - logs[0]
            slope = (self.scores[1] - self.scores[0]) / (logs[1] - logs[0]) if len(logs) > 1 else 0.0
            back = (
                (self.scores[0] - score) / slope if slope > 0 else (reach if score < self.scores[0] else 0.0)
            )
            return logs[0] - min(back, reach)
        for i in range(1, len(logs)):
            if score <= self.scores[i]:
                share = (score - self.scores[i - 1]) / (self.scores[i] - self.scores[i - 1])
                return logs[i - 1] + share * (logs[i] - logs[i - 1])
        return logs[-1]


def log_factor(arm: Curve, against: Curve) -> float:
    """Return the logarithm of how many times less an arm costs than another at an equal score.

    The score is the highest that both reach: the lower of their last ones. Above 0 the arm costs less.
    """
    one, other = arm.rising(), against.rising()
    level = min(one.scores[-1], other.scores[-1])
    return other.log_cost(level) - one.log_cost(level)
