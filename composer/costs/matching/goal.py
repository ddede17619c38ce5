"""Target costs, and the score of sizes against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log
from typing import NamedTuple, TypeAlias

from composer.costs.matching.shape import Sizes

Costs: TypeAlias = Sequence[float]
"""The targeted measures, in the order of the aims."""
# a ratio for what is 0 on one side only
_FAR = 5.0
# residuals that differ by less are alike, so that the nearer shape is better: in tolerances, in logarithms
_COARSE = 0.25, 0.01


class Score(NamedTuple):
    """The score of sizes; lower is better.

    Attributes:
        excess: the worst required residual, in tolerances; 0 if all hold.
        left: the residual to minimize, in logarithms.
        distance: how far from the base's shape.
    """

    excess: float
    left: float
    distance: float

    @property
    def met(self) -> bool:
        """Whether all residuals are within tolerance, so that only the distance counts."""
        return self.excess == 0 and self.left == 0


NOWHERE = Score(inf, inf, inf)


class Solution(NamedTuple):
    """Sizes that differ from the base's, and their score."""

    score: Score
    values: Sizes


@dataclass(frozen=True)
class Aim:
    """The target of one measure, with its tolerance in percent.

    Attributes:
        held: whether it must be within the tolerance.
        near: if not held, whether it is minimized or only reported.
    """

    value: float
    tolerance: float
    held: bool = True
    near: bool = False

    @property
    def span(self) -> tuple[float, float]:
        """The smallest and the largest value within tolerance."""
        return self.value * exp(-self.tolerance / 100), self.value * exp(self.tolerance / 100)


@dataclass(frozen=True)
class Goal:
    """An aim for each measure."""

    aims: tuple[Aim, ...]

    def score(self, costs: Costs, distance: float) -> Score:
        """Return the score of costs at a distance from the base's shape."""
        worst = left = 0.0
        for aim, cost in zip(self.aims, costs, strict=True):
            if aim.held:
                worst = max(worst, 100 * _off(cost, aim.value) / aim.tolerance)
            elif aim.near:
                left = max(left, _off(cost, aim.value))
        excess = max(round(worst / _COARSE[0]) * _COARSE[0], 1 + _COARSE[0]) if worst > 1 else 0.0
        return Score(excess, round(left / _COARSE[1]) * _COARSE[1], distance)


def _off(cost: float, aim: float) -> float:
    if cost == aim:
        return 0.0
    return abs(log(cost / aim)) if cost > 0 and aim > 0 else _FAR
