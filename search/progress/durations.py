"""How long runs took, summed up record by record as they end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from search.store.ledger import Record


class Durations:
    """Sums and counts of the seconds of runs that have ended: trials, those trained in full, finals."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._known: dict[str, tuple[tuple[str, ...], float]] = {}
        self._counts: Counter[str] = Counter()
        self._sums: dict[str, float] = defaultdict(float)
        for record in records:
            self.update(record)

    def update(self, record: Record) -> None:
        """Take over a record that is new or has changed."""
        groups, seconds = self._known.pop(record.key, ((), 0.0))
        self._add(groups, seconds, -1)
        if record.status != "running" and record.seconds:
            full = ("full",) if record.status == "finished" else ()
            self._known[record.key] = (record.role, *full), record.seconds
            self._add(*self._known[record.key], 1)

    @property
    def finals(self) -> int:
        """The number of finals that have ended."""
        return self._counts["final"]

    def of_trials(self) -> float | None:
        """Return the mean of trials, or without any of all trained in full; None without any."""
        return self._mean("trial") or self.of_full()

    def of_full(self) -> float | None:
        """Return the mean of all runs trained in full; None without any."""
        return self._mean("full")

    def _mean(self, group: str) -> float | None:
        return self._sums[group] / self._counts[group] if self._counts[group] else None

    def _add(self, groups: Iterable[str], seconds: float, sign: int) -> None:
        for group in groups:
            self._counts[group] += sign
            self._sums[group] += sign * seconds
