"""Where a search stands: what is shown while it runs, and said at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from composer.spec.search_config import SearchConfig
from search.drawn import Drawn
from search.goals import Goals, Values
from search.ledger import Ledger, Record
from search.trainer import Step

Event: TypeAlias = Literal["begin", "proposed", "started", "progress", "rung", "ended", "note", "end"]


@dataclass
class State:
    """All there is to see of a search.

    Attributes:
        baselines: identities of the space's baselines.
        outcomes: how many proposals were feasible, over, invalid, repeat; over all starts.
        drawn: how many candidates were costed to find these.
        running: the record that this worker trains, if any; `step` is how far it is, `target` where it goes.
        note: what else there is to say, in words.
    """

    config: SearchConfig
    goals: Goals
    ledger: Ledger
    baselines: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    drawn: Drawn = field(default_factory=Drawn)
    running: Record | None = None
    step: Step = field(default_factory=lambda: Step(0))
    target: int = 0
    note: str = ""

    def done(self) -> list[Record]:
        """Return the trials that are over, however they ended."""
        return [record for record in self.ledger.trials() if record.status != "running"]

    def finished(self) -> dict[str, Values]:
        """Return the values of every spec trained in full, baselines included, by identity."""
        return {
            record.identity: record.seen[-1].values for record in self.ledger if record.status == "finished"
        }

    def front(self, kind: Literal["trial", "baseline"] | None = None) -> list[Record]:
        """Return the best records trained in full, those no other beats; the best in the first goal first."""
        values = {
            identity: found
            for identity, found in self.finished().items()
            if kind is None or (identity in self.baselines) == (kind == "baseline")
        }
        return [self._record(identity) for identity in self.goals.front(values)]

    def winner(self) -> Record | None:
        """Return the trial that is best in the first objective among those on the trials' front."""
        return next(iter(self.front("trial")), None)

    def spent(self) -> float:
        """Return the seconds spent training so far, over all starts."""
        return sum(record.seconds for record in self.ledger)

    def seconds_left(self) -> float | None:
        """Estimate how long the trials left will take, from the mean of those done."""
        done = self.done() or [record for record in self.ledger if record.status != "running"]
        if not done:
            return None
        mean = sum(record.seconds for record in done) / len(done)
        left = mean * max(0, self.config.trials - len(self.done()))
        if self.config.time_limit is not None:
            left = min(left, max(0.0, self.config.time_limit - self.spent()))
        return left

    def _record(self, identity: str) -> Record:
        record = self.ledger.find(identity)
        assert record is not None
        return record


Watch: TypeAlias = Callable[[Event, State], None]
"""Told of everything that happens."""


def silent(event: Event, state: State) -> None:
    """Watch nothing."""
