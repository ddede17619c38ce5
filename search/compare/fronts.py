"""Non-dominated fronts of many values, sorted once or kept up to date as values arrive."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from search.objectives import Values, dominates


def fronts(values: Sequence[Values]) -> list[int]:
    """Rank values by non-dominated sorting: 0 for the Pareto front, 1 for the front without rank 0, ...

    A point's front is found by bisection (Zhang et al., 2015): whoever is dominated by one of a front is
    dominated by one of each front before it.
    """
    if all(len(point) == 2 for point in values):
        return _fronts_of_two(values)
    layers: list[list[Values]] = []
    ranks: dict[Values, int] = {}
    # in this order a dominating point comes before those it dominates
    for point in sorted(set(values), reverse=True):
        rank = _rank(point, layers)
        if rank == len(layers):
            layers.append([])
        layers[rank].append(point)
        ranks[point] = rank
    return [ranks[point] for point in values]


def _fronts_of_two(values: Sequence[Values]) -> list[int]:
    """Rank pairs: the second objective grows along a front, so its last point alone decides."""
    last: list[float] = []
    ranks: dict[Values, int] = {}
    for point in sorted(set(values), reverse=True):
        # the last points of the fronts, ascending once negated
        rank = bisect_right(last, -point[1])
        last[rank : rank + 1] = [-point[1]]
        ranks[point] = rank
    return [ranks[point] for point in values]


class Fronts:
    """Values, larger is better in each objective, and the front of each.

    A value that arrives pushes those that it dominates one front back, and these push others in turn (Li et
    al., 2014). Of two objectives, what moves is one piece of each front (Yakupov and Buzdalov, 2015).
    """

    def __init__(self, values: Iterable[Values] = ()) -> None:
        self._counts: Counter[Values] = Counter()
        self._layers: list[list[Values]] = []
        self._sizes: list[int] = []
        self._waiting = [*values]

    def __len__(self) -> int:
        return self._counts.total() + len(self._waiting)

    def __iter__(self) -> Iterator[Values]:
        """Yield all values, equal ones each."""
        yield from self._counts.elements()
        yield from self._waiting

    def add(self, point: Values) -> None:
        """Add a value."""
        self._waiting.append(point)

    def layers(self) -> list[list[Values]]:
        """Return the different values of each front, the first front first."""
        self._settle()
        return self._layers

    def ahead(self, own: Values, measured: int) -> int:
        """Return how many values rank ahead of another: by front, then by the objective `measured`."""
        layers = self.layers()
        rank = _rank(own, layers)
        beside = layers[rank] if rank < len(layers) else []
        better = sum(self._counts[other] for other in beside if other[measured] > own[measured])
        return sum(self._sizes[:rank]) + better

    def _settle(self) -> None:
        """Sort the waiting values in: one by one, or all anew where they are many."""
        if len(self._waiting) > len(self._counts) // 8:
            self._counts.update(self._waiting)
            self._sort()
        else:
            for point in self._waiting:
                self._insert(point)
        self._waiting = []

    def _sort(self) -> None:
        points = sorted(self._counts)
        ranks = fronts(points)
        self._layers = [[] for _ in range(1 + max(ranks, default=-1))]
        for point, rank in zip(points, ranks, strict=True):
            self._layers[rank].append(point)
        self._sizes = [self._total(layer) for layer in self._layers]

    def _insert(self, point: Values) -> None:
        rank = _rank(point, self._layers)
        self._counts[point] += 1
        if self._counts[point] > 1:
            self._sizes[rank] += 1
            return
        moved = [point]
        while rank < len(self._layers):
            pushed = _replace(self._layers[rank], moved)
            self._sizes[rank] += self._total(moved) - self._total(pushed)
            if not pushed:
                return
            whole, moved = len(self._layers[rank]) == len(moved), pushed
            rank += 1
            if whole:
                # nothing stayed, so all fronts behind it stay as they are, one further back
                break
        self._layers.insert(rank, moved)
        self._sizes.insert(rank, self._total(moved))

    def _total(self, points: Iterable[Values]) -> int:
        return sum(self._counts[point] for point in points)


def _replace(layer: list[Values], moved: list[Values]) -> list[Values]:
    """Put values into a front instead of those that they dominate, which are returned; all ascend."""
    if len(moved[0]) == 2:
        # the first objective ascends along a front, the second descends
        start = bisect_left(layer, -moved[0][1], key=_second_descending)
        end = bisect_right(layer, moved[-1][0], key=_first)
        pushed = layer[start:end]
        layer[start:end] = moved
        return pushed
    pushed = [point for point in layer if any(dominates(other, point) for other in moved)]
    gone = set(pushed)
    layer[:] = sorted([*(point for point in layer if point not in gone), *moved])
    return pushed


def _first(point: Values) -> float:
    return point[0]


def _second_descending(point: Values) -> float:
    return -point[1]


def _rank(point: Values, layers: Sequence[list[Values]]) -> int:
    """Return the first front of which none dominates a value."""
    free = _is_free_of_two if len(point) == 2 else _is_free
    return bisect_left(layers, True, key=partial(free, point))


def _is_free(point: Values, layer: Sequence[Values]) -> bool:
    return not any(dominates(other, point) for other in layer)


def _is_free_of_two(point: Values, layer: list[Values]) -> bool:
    """Decide by the one value of an ascending front that has the least first objective of those as large."""
    at = bisect_left(layer, point[0], key=_first)
    # the second objective descends, so no other that is as large in the first is larger in the second
    return at == len(layer) or not dominates(layer[at], point)
