"""The worst results of a search, kept up to date as records change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heappop, heappush

from search.objectives import Goals, Values
from search.store.digest import Digest
from search.store.ledger import Record


class Worst:
    """The values of a candidate without results: its costs, else the worst at any last milestone, else 0."""

    def __init__(self, digest: Digest, goals: Goals) -> None:
        self._digest, self._goals = digest, goals
        # of each objective, the worst first; results that a record has left behind stay until they are on top
        self._heaps: list[list[tuple[float, str, Values]]] = [[] for _ in goals.objectives]
        self._pushed: dict[str, Values] = {}
        for record in digest.records.values():
            self._update(record)
        digest.follow(self._update)

    def __call__(self, costs: Mapping[str, float]) -> Values:
        """Return finite values for a candidate with these costs."""
        return self._goals.worst(self._tops(), costs)

    def _update(self, record: Record) -> None:
        values = record.values
        if record.kind != "final" and values is not None and self._pushed.get(record.key) != values:
            self._pushed[record.key] = values
            for heap, value in zip(self._heaps, self._goals.ascending(values), strict=True):
                heappush(heap, (value, record.key, values))

    def _tops(self) -> Iterator[Values]:
        for heap in self._heaps:
            while heap and self._digest.records[heap[0][1]].values != heap[0][2]:
                heappop(heap)
            if heap:
                yield heap[0][2]
