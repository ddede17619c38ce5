"""The objectives of a search, and which of two results is better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from composer.language.schema.search import Objective
from composer.measures.registry import MEASURES
from composer.settings.errors import close
from search.errors import Crash, SearchError

Values: TypeAlias = tuple[float, ...]
"""One number per objective, as measured."""

Key = TypeVar("Key")


class Goals:
    """The objectives of a search, in order."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        self.objectives = tuple(objectives)
        self.names = tuple(objective.metric for objective in objectives)
        self.directions = tuple(objective.direction for objective in objectives)
        self._signs = tuple(1 if direction == "maximize" else -1 for direction in self.directions)

    @property
    def first_measured(self) -> int:
        """The index of the primary objective: the first that training measures, else the first of all."""
        return next((i for i, objective in enumerate(self.objectives) if not objective.is_cost), 0)

    @property
    def primary(self) -> str:
        """The name of the primary objective."""
        return self.names[self.first_measured]

    def primary_first(self, values: Values) -> Values:
        """Move the primary objective to the front; the others stay in order."""
        i = self.first_measured
        return (values[i], *values[:i], *values[i + 1 :])

    def measured(self, metrics: Mapping[str, float], costs: Mapping[str, float]) -> Values:
        """Read the objectives from what training measured and what the spec costs.

        Raises:
            SearchError: training measures no metric of that name.
            Crash: a metric is not finite.
        """
        results: list[float] = []
        for name in self.names:
            source: Mapping[str, float] = costs if name in MEASURES else metrics
            if name not in source:
                raise SearchError(unknown_metric(name, metrics))
            if not math.isfinite(source[name]):
                raise Crash(f"{name} is {source[name]}")
            results.append(float(source[name]))
        return tuple(results)

    def ascending(self, values: Values) -> Values:
        """Change signs so that larger is better for every value."""
        return tuple(sign * value for sign, value in zip(self._signs, values, strict=True))

    def worst(self, seen: Iterable[Values], costs: Mapping[str, float]) -> Values:
        """Return finite values for a candidate without results: its costs, else the worst seen, else 0."""
        known = list(seen)
        values = []
        for i, objective in enumerate(self.objectives):
            column = [values[i] for values in known]
            pick = min if objective.direction == "maximize" else max
            default = pick(column, default=0.0)
            values.append(float(costs.get(objective.metric, default)) if objective.is_cost else default)
        return tuple(values)

    def front(self, results: Mapping[Key, Values]) -> list[Key]:
        """Return the keys of results that no other dominates, the best in the primary objective first."""
        turned = {key: self.ascending(values) for key, values in results.items()}
        best = undominated(turned.values())
        free = [key for key, own in turned.items() if own in best]
        return sorted(free, key=lambda key: self.primary_first(turned[key]), reverse=True)


def undominated(points: Iterable[Values]) -> set[Values]:
    """Return the points that no other dominates; ascending.

    In descending order a dominating point comes before those it dominates, so each is compared with the
    front so far; of two objectives with its last point alone, since the second grows along the front.
    """
    front: list[Values] = []
    for point in sorted(set(points), reverse=True):
        others = front[-1:] if len(point) <= 2 else front
        if not any(dominates(other, point) for other in others):
            front.append(point)
    return set(front)


def dominates(one: Values, other: Values) -> bool:
    """Whether `one` is as large in all objectives and larger in some; both ascending."""
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def unknown_metric(name: str, known: Iterable[str]) -> str:
    """Return the error for an objective of an unknown name."""
    measured = sorted({*known})
    near = close(name, [*measured, *MEASURES])
    message = f"search.objectives: training measures no {name!r}" + (f"; {near}" if near else "")
    return f"{message}\nmeasured are {', '.join(measured)}; costs are {', '.join(MEASURES)}"
