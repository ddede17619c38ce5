"""The state of a search, as shown while it runs and at its end."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

from composer.language.schema.search import SearchConfig
from search.compare.choosing import Basis, Choice, choose, knee
from search.compare.finals import Finals
from search.compare.pareto import Pareto
from search.objectives import Goals, Values
from search.progress.budget import Account, accounts
from search.progress.durations import Durations
from search.progress.spending import Spending
from search.propose.draft_counts import Drawn
from search.store.ledger import ENDED, Ledger, Record
from search.trainer import Step

Event: TypeAlias = Literal[
    "begin", "proposed", "started", "taken_over", "progress", "rung", "ended", "note", "end"
]
Follower = TypeVar("Follower", Spending, Durations, Pareto)


@dataclass
class Activity:
    """The activity of one worker: the run it trains, if any, else its last note.

    Attributes:
        step: how far the run is, `target` where it goes, `since` when that began, in seconds since 1970.
        note: in words.
    """

    record: Record | None = None
    step: Step = field(default_factory=lambda: Step(0))
    target: int = 0
    since: float = 0.0
    note: str = ""


@dataclass
class State:
    """The complete visible state of a search.

    Attributes:
        baselines: identities of the space's baselines.
        outcomes: how many proposals were feasible, over, invalid, repeat; over all starts.
        drawn: number of candidates costed to find these.
        running: the record that this worker trains, if any; `step` is how far it is, `target` where it goes,
            `since` when it began, in seconds since 1970. With local workers, of the one that the event is of.
        worker: the name of this worker, or of the one that the event is of.
        left_by: for a run taken over, the worker that left it; `step` is where it resumes.
        note: anything else to show, as text.
        local: what each worker that this process started does, by number; empty where it searches itself.
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
    since: float = 0.0
    worker: str = ""
    left_by: str = ""
    note: str = ""
    local: dict[int, Activity] = field(default_factory=dict)
    _following: tuple[Ledger | None, dict[type, Any]] = field(default=(None, {}), init=False, repr=False)

    def is_baseline(self, record: Record) -> bool:
        """Whether a record, or the one that a final retrains, is a baseline: now, or when it began."""
        of = self.base(record)
        return of.role == "baseline" or of.identity in self.baselines

    def has_baselines(self) -> bool:
        """Whether baselines were requested, or exist."""
        return bool(self.config.baselines or self.baselines) or any(map(self.is_baseline, self.ledger))

    def base(self, record: Record) -> Record:
        """Return the record that a final retrains; any other record itself."""
        if record.kind != "final":
            return record
        return self.ledger.digest.records[record.again["of"]]

    def finals(self) -> Finals:
        """Return the finals as of now."""
        return Finals(self.config, self.goals, self.ledger)

    def done(self) -> list[Record]:
        """Return the trials that have ended, in whatever way."""
        return [record for record in self.ledger.trials() if record.status != "running"]

    def finished(self) -> dict[str, Values]:
        """Return, by identity, the values of every spec trained in full, baselines included."""
        return {
            record.identity: record.seen[-1].values for record in self.ledger if record.status == "finished"
        }

    def front(self, kind: Literal["trial", "baseline"] | None = None) -> list[Record]:
        """Return the Pareto front of all trained in full, the best in the primary objective first."""
        if kind is None:
            return self._followed(Pareto, lambda: Pareto(self.goals, self.ledger.every())).records()
        values = {
            identity: record
            for identity, record in self.finished().items()
            if self.is_baseline(self._record(identity)) == (kind == "baseline")
        }
        return [self._record(identity) for identity in self.goals.front(values)]

    def winner(self) -> Record | None:
        """Return the winner, as `choice` chooses it; None before a trial was trained in full."""
        choice = self.choice()
        return None if choice is None else choice.winner

    def choice(self) -> Choice[Record] | None:
        """Choose the winner among trials.

        Among finalists by `choosing.choose` on their fresh seeds, or without seeds on the run at the best
        rate of each, once all of them have that; until then, and without finals, on what the search measured.
        """
        standings = [at for at in self.finals().settled() if not self.is_baseline(at.base)]
        fresh = {at.base.identity: at.results for at in standings if at.results}
        swept = {at.base.identity: at.at_rate.seen[-1].values for at in standings if at.at_rate is not None}
        searched = {record.identity: record.seen[-1].values for record in self.front("trial")}
        single = {identity: (values,) for identity, values in (swept or searched).items()}
        basis: Basis = "seeds" if fresh else "rates" if swept else "search"
        choice = choose(self.goals, fresh or single, basis)
        if choice is None:
            return None
        return Choice(self._record(choice.winner), self._record(choice.best), choice.error, basis)

    def knee(self) -> Record | None:
        """Return the knee of the front; None where the front has fewer than three points."""
        identity = knee(self.goals, {each.identity: each.seen[-1].values for each in self.front()})
        return None if identity is None else self._record(identity)

    def best_run(self) -> Record | None:
        """Return the run whose weights stand for the winner.

        That is the best of its fresh seeds in the first measure, else its run at its best rate, else itself.
        """
        winner, i = self.winner(), self.goals.first_measured
        at = next((at for at in self.finals().standings() if at.base is winner), None)
        if at is None:
            return winner
        best = at.at_rate or winner
        return max(at.runs, key=lambda run: self.goals.ascending(run.seen[-1].values)[i], default=best)

    def spending(self) -> Spending:
        """Return what has been spent, kept up to date as records change."""
        return self._followed(Spending, lambda: Spending(self.ledger.every()))

    def _followed(self, kind: type[Follower], make: Callable[[], Follower]) -> Follower:
        """Return what is kept up to date as records change, from the first time that it is asked for."""
        if self._following[0] is not self.ledger:
            self._following = self.ledger, {}
        known = self._following[1]
        if kind not in known:
            known[kind] = made = make()
            self.ledger.digest.follow(made.update)
        entry = known[kind]
        assert isinstance(entry, kind)
        return entry

    def spent(self) -> float:
        """Return the seconds spent training so far, over all starts and workers."""
        return self.spending().every().seconds

    def accounts(self) -> list[Account]:
        """Return the budgets other than the number of trials."""
        if self.config.tokens is self.config.flops is self.config.time_limit is None:
            return []
        at_work = [Activity(self.running, since=self.since), *self.local.values()]
        now = [(each.record, each.since, time.time()) for each in at_work if each.record is not None]
        # a run in training is not counted before it ends
        ended = sum(record.status != "running" for record in self.ledger.finals())
        count = self.finals().count()
        return list(accounts(self.config, self.spending(), count, max(0, count - ended), now))

    def runs_left(self) -> float:
        """Return the most runs that are still to begin or end: trials, baselines and finals."""
        waiting = sum(self.ledger.find(identity) is None for identity in self.baselines)
        running = sum(record.status == "running" for record in self.ledger)
        ended = sum(record.status != "running" for record in self.ledger.finals())
        trials = max(0, self.trials_left())
        return trials + waiting + running + max(0, self.finals().count() - ended)

    def trials_left(self) -> float:
        """Return how many trials may still be claimed; imported ones do not count."""
        if self.config.trials is None:
            return math.inf
        return self.config.trials - len(self.ledger.digest.claimed)

    def counted(self) -> str:
        """Count what has ended: `7 of 24 trials`, and finals where there are any."""
        digest, finals = self.ledger.digest, self.finals().count()
        came, done = (digest.count("trial", *ENDED, imported=each) for each in (True, False))
        text = f"{done} trials" if self.config.trials is None else f"{done} of {self.config.trials} trials"
        text += f" and {came} imported" if came else ""
        ended = sum(record.status != "running" for record in self.ledger.finals())
        return f"{text}, {ended} of {max(finals, ended)} finals" if finals or ended else text

    def progress(self) -> str:
        """Return as text what has ended and how much of every other budget is spent."""
        return ", ".join([self.counted(), *map(str, self.accounts())])

    def seconds_left(self) -> float | None:
        """Estimate the seconds that one worker needs for all remaining runs, from the mean so far."""
        durations = self._followed(Durations, lambda: Durations(self.ledger.every()))
        trial = durations.of_trials()
        if trial is None:
            return None
        running = self.ledger.digest.count("trial", "running")
        again = max(0, self.finals().count() - durations.finals)
        least = [(self.trials_left() + running) * trial]
        for account in self.accounts():
            share = account.spent / account.limit
            if share:
                least.append(max(0.0, (1 - account.aside / account.limit) / share - 1) * self.spent())
        seconds = max(0.0, min(least)) + again * (durations.of_full() or trial)
        return seconds if math.isfinite(seconds) else None

    def _record(self, identity: str) -> Record:
        record = self.ledger.find(identity)
        assert record is not None
        return record


Watch: TypeAlias = Callable[[Event, State], None]
"""Called with every event and the state after it."""


def silent(event: Event, state: State) -> None:
    """Ignore all events."""
