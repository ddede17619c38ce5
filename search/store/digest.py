"""Figures about the records of a search that are kept up to date record by record.

With thousands of trials, counting all records for each proposal would take longer than the proposal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from search.store.ledger import Record

Count: TypeAlias = tuple[str, str, bool]


class Digest:
    """All records by key, and what a search asks about them for every proposal.

    Attributes:
        records: by key.
        running: those that have not ended, by key.
        claimed: the keys of those that count as trials, without imported ones.
        finals: the records of finals, by key.
        counts: how many there are by role, status and whether they were imported.
        last_asked: the largest number of an Optuna trial with a record; -1 without any.
        last_number: the largest number of a trial; -1 without any.
        spared: by rung, the first trial that the retired rung let pass.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.records: dict[str, Record] = {}
        self.running: dict[str, Record] = {}
        self.claimed: set[str] = set()
        self.finals: dict[str, Record] = {}
        self.counts: Counter[Count] = Counter()
        self._counted: dict[str, Count] = {}
        self.last_asked = self.last_number = -1
        self.spared: dict[int, Record] = {}
        self._followers: list[Callable[[Record], None]] = []
        for record in records:
            self.update(record)

    def follow(self, follower: Callable[[Record], None]) -> None:
        """Call `follower` with each record that is new or has changed from now on."""
        self._followers.append(follower)

    def update(self, record: Record) -> None:
        """Take over a record that is new or has changed."""
        key = record.key
        self.records[key] = record
        if record.status == "running":
            self.running[key] = record
        else:
            self.running.pop(key, None)
        if record.role == "trial" and not record.imported:
            self.claimed.add(key)
        else:
            self.claimed.discard(key)
        if record.kind == "final":
            self.finals[key] = record
        self._count(record)
        if record.asked is not None:
            self.last_asked = max(self.last_asked, record.asked)
        if record.kind == "trial":
            self.last_number = max(self.last_number, int(record.name))
        self._spare(record)
        for follower in self._followers:
            follower(record)

    def count(self, role: str, *statuses: str, imported: bool | None = None) -> int:
        """Return how many records have a role and one of these statuses; imported ones too, only, or not."""
        whether = (False, True) if imported is None else (imported,)
        return sum(self.counts[role, status, each] for status in statuses for each in whether)

    def _count(self, record: Record) -> None:
        # a record changes in place, so what it was is kept apart
        if record.key in self._counted:
            self.counts[self._counted[record.key]] -= 1
        now = record.role, record.status, bool(record.imported)
        self._counted[record.key] = now
        self.counts[now] += 1

    def _spare(self, record: Record) -> None:
        for rung, seen in enumerate(record.seen):
            if seen.tau_bound is not None:
                first = self.spared.get(rung, record)
                # an equal one is a newer version of the same record
                if int(record.name) <= int(first.name):
                    self.spared[rung] = record
