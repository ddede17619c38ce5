"""The spending of runs, updated record by record; imported runs spend nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from search.progress.covered import Covered, Span
from search.store.ledger import Record

Now: TypeAlias = tuple[Record, float, float]
"""A run in training: its record, when that began, and the current time."""


@dataclass(frozen=True, slots=True)
class Spent:
    """The spending of one run.

    Attributes:
        searched: whether it is no final.
        full: whether it was trained in full.
    """

    searched: bool
    full: bool
    tokens: int
    flops: float
    seconds: float
    spans: tuple[Span, ...]


@dataclass
class Total:
    """The spending of several runs; `clock` has each second once, however many trained in it."""

    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    clock: Covered = field(default_factory=Covered)

    def add(self, spent: Spent) -> None:
        """Add another run."""
        self.tokens += spent.tokens
        self.flops += spent.flops
        self.seconds += spent.seconds
        for span in spent.spans:
            self.clock.add(span)

    def with_more(self, runs: Sequence[Spent], now: Sequence[Now]) -> Amounts:
        """Return the amounts with a few more runs and those in training now."""
        spans = [*(span for run in runs for span in run.spans), *((begun, at) for _, begun, at in now)]
        return Amounts(
            self.tokens + sum(run.tokens for run in runs),
            self.flops + sum(run.flops for run in runs),
            self.seconds + sum(run.seconds for run in runs),
            self.clock.with_more(spans),
        )


@dataclass(frozen=True)
class Amounts:
    """Tokens, FLOPs, seconds of training, and seconds by the clock."""

    tokens: int
    flops: float
    seconds: float
    clock: float


class Spending:
    """The spending of the runs of a search.

    Runs that have ended are summed up once. Those that have not are summed up at each question, since their
    records change before they are saved.
    """

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._ended: dict[str, Spent] = {}
        self._running: dict[str, Record] = {}
        self._all, self._searched = Total(), Total()
        self._most = Amounts(0, 0.0, 0.0, 0.0)
        for record in records:
            self.update(record)

    def update(self, record: Record) -> None:
        """Take over a record that is new or has changed."""
        running = record.status == "running" and not record.imported
        if running:
            self._running[record.key] = record
        else:
            self._running.pop(record.key, None)
        spent = None if running or record.imported else spent_by(record)
        before = self._ended.get(record.key)
        if spent == before:
            return
        if spent is not None:
            self._ended[record.key] = spent
        else:
            del self._ended[record.key]
        if before is None and spent is not None:
            self._add(spent)
        else:
            # rare: a run that had ended goes on, or somebody edited its record
            self._sum_up()

    def every(self, now: Sequence[Now] = ()) -> Amounts:
        """Return what all runs have spent."""
        return self._all.with_more(self._open(), now)

    def searched(self, now: Sequence[Now] = ()) -> Amounts:
        """Return what trials and baselines have spent."""
        now = [each for each in now if each[0].kind != "final"]
        return self._searched.with_more([run for run in self._open() if run.searched], now)

    def most(self) -> Amounts:
        """Return the most that a run trained in full has taken of each; the clock is left out."""
        return self._most

    def _open(self) -> list[Spent]:
        return [spent_by(record) for record in self._running.values()]

    def _add(self, spent: Spent) -> None:
        self._all.add(spent)
        if spent.searched:
            self._searched.add(spent)
        if spent.full:
            most = self._most
            tokens, flops = max(most.tokens, spent.tokens), max(most.flops, spent.flops)
            self._most = Amounts(tokens, flops, max(most.seconds, spent.seconds), 0.0)

    def _sum_up(self) -> None:
        self._all, self._searched = Total(), Total()
        self._most = Amounts(0, 0.0, 0.0, 0.0)
        for spent in self._ended.values():
            self._add(spent)


def spent_by(record: Record) -> Spent:
    """Return what a run has spent, as its record says."""
    # searches of older versions have no spans, only the duration and an approximate time
    spans = tuple(record.spans) or ((record.started, record.started + record.seconds),)
    full = record.status == "finished"
    return Spent(record.kind != "final", full, record.read, flops(record), record.seconds, spans)


def flops(record: Record) -> float:
    """Return the training FLOPs of a record up to its last milestone, or to where it crashed."""
    share = record.read / record.whole if record.whole else float(record.status == "finished")
    return record.costs.get("train_flops", 0.0) * share
