"""The Pareto front of all records trained in full, kept up to date as records change."""

from __future__ import annotations

from collections.abc import Iterable

from search.objectives import Goals, Values, dominates
from search.store.ledger import Record, in_order


class Pareto:
    """The records that no other dominates; finals are left out."""

    def __init__(self, goals: Goals, records: Iterable[Record] = ()) -> None:
        self._goals = goals
        self._all: dict[str, Record] = {}
        self._values: dict[str, Values] = {}
        self._front: dict[str, Values] = {}
        for record in records:
            self.update(record)

    def update(self, record: Record) -> None:
        """Take over a record that is new or has changed."""
        finished = record.status == "finished" and record.kind != "final"
        values = self._goals.ascending(record.seen[-1].values) if finished else None
        before = self._values.get(record.key)
        if values is not None:
            self._all[record.key], self._values[record.key] = record, values
        if values == before:
            return
        if before is None and values is not None:
            self._enter(record.key, values)
            return
        # rare: somebody edited the record of a run that had ended
        if values is None:
            del self._all[record.key], self._values[record.key]
        self._front = {}
        for key, each in self._values.items():
            self._enter(key, each)

    def records(self) -> list[Record]:
        """Return the front, the best in the primary objective first."""
        ordered = sorted((self._all[key] for key in self._front), key=in_order)
        first = self._goals.primary_first
        return sorted(ordered, key=lambda record: first(self._values[record.key]), reverse=True)

    def _enter(self, key: str, values: Values) -> None:
        if not any(dominates(other, values) for other in self._front.values()):
            self._front = {
                name: other for name, other in self._front.items() if not dominates(values, other)
            } | {key: values}
