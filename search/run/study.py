"""The loop of a worker: take over abandoned runs, then baselines, then ask; cost, train in rungs, tell.

When all trials have ended, the best of them and the baselines are retrained (`search.compare.finals`).

Each step leaves enough state for another process to continue seamlessly: the sampler's
proposal stays open until its result is reported, the record of a spec is written before its training begins,
and training resumes from its own checkpoint. A search that was killed, a worker that died beside others, and
one that lost its database are handled alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial

from composer.language.schema.spec import Spec
from composer.language.space import Space
from search import optuna_private
from search.compare.finals import respec
from search.compare.rungs import Arrivals, milestones, tokens
from search.compare.worst import Worst
from search.errors import Crash, SearchError
from search.objectives import Goals
from search.progress.state import State, Watch, silent
from search.progress.stop_reasons import crashing, hopeless, last_read, leave_cause, over, taken_over
from search.progress.words import moved_note
from search.propose.baselines import baselines
from search.propose.candidates import Candidate, Judge
from search.propose.feasible import origin, sampler
from search.propose.optuna_adapter import suggest, tell
from search.propose.questions import MORE_TRIALS, Questions, awaited, holder
from search.propose.specs import spec_of
from search.run.adopting import adopt, claim, lacking
from search.run.open_store import open_search
from search.run.publishing import Publisher
from search.run.worker import CRASHES, TakenOver, Worker, opened
from search.store.ledger import Record, Seen, free
from search.store.same_data import check_data, same_data
from search.store.store import Store
from search.trainer import Step, Train, train

PATIENCE = 1000
"""Consecutive proposals without a new feasible spec after which a search ends."""

_Task: TypeAlias = Callable[[], None]


@dataclass(frozen=True)
class Outcome:
    """How a search ended: its state and the reason; `failures` are those of local workers, as text."""

    folder: Path
    state: State
    reason: str
    failures: tuple[str, ...] = ()


def run_search(
    space: Space, folder: Path, train: Train = train, watch: Watch = silent, storage: str | None = None
) -> Outcome:
    """Search `space` in `folder`, from its current state to its end, beside other workers.

    Run folders are in `folder`, and so are records, leases and the study unless `storage` names a database.

    Raises:
        SpecError: the space cannot be searched; see `check_search`.
        SearchError: the folder or the database cannot be used, no candidate is feasible, or candidates crash
            in a row.
    """
    with open_search(space, folder, storage) as store:
        opens = partial(_Search, space, folder, store, train, watch)
        search = opened(store, opens)
        reason = search.run()
        watch("end", search.state)
        return Outcome(folder, search.state, reason)


class _Search(Worker):
    def __init__(self, space: Space, folder: Path, store: Store, train: Train, watch: Watch) -> None:
        super().__init__(store)
        assert space.search is not None
        self.space, self.folder, self.train, self.watch = space, folder, train, watch
        self.config = space.search
        self.goals = Goals(self.config.objectives)
        self.baselines = baselines(space)
        self.judge = Judge(space)
        self.fruitless = 0
        self.crashes: list[Record] = []
        self.arrivals = Arrivals(self.ledger.digest, self.goals)
        self.worst = Worst(self.ledger.digest, self.goals)
        self.state = State(self.config, self.goals, self.ledger, set(self.baselines), worker=self.me)
        self._publish = Publisher(folder, self.state, store, self._spec)
        self.left_by: dict[str, str] = {}
        self._open_study()

    def _open_study(self) -> None:
        self.study = self.store.study(self.goals, sampler(self.space, self.judge))
        self.questions = Questions(self.study, self.me)
        self._count()

    def run(self) -> str:
        """Work until there is nothing left to do, and return why."""
        check_data(self.ledger.every(), self._spec, self.folder)
        self.watch("begin", self.state)
        return self.repeat(self._do_next)

    def _do_next(self) -> str | None:
        """Do what is next; return why there is nothing left, if so."""
        task = self._next()
        if isinstance(task, str):
            self._publish(at_last=True)
            return task
        task()
        return None

    def _spec(self, record: Record) -> Spec | None:
        spec = spec_of(self.space, self.baselines, self.state.base(record))
        return spec if spec is None or record.kind != "final" else respec(spec, record.again)

    def _next(self) -> _Task | str:
        """Choose the next run (abandoned ones, baselines, then new trials), or return why there is none."""
        self.ledger.refresh()
        opened = self._count()
        others = self.present({*map(holder, opened), *(record.worker for record in self.ledger.running())})
        left = any(free(record, others) for record in self.ledger.running())
        left = left or any(self._answerable(question, others) for question in opened)
        left = left or any(lacking(self.ledger, self.baselines))
        # with enough trials left for all workers, open proposals of the others do not matter
        if left or self._over() is not None or self.state.trials_left() <= 2 * (1 + len(others)):
            return self._next_in_turn()
        return partial(self._answer, self.questions.ask())

    def _next_in_turn(self) -> _Task | str:
        # what can be read before others have to wait
        self._count()
        with self.alone():
            others = self.store.others()
            adopt(self.ledger, self.baselines, others)
            for record in self.ledger.running():
                spec = self._spec(record) if free(record, others) else None
                if spec is not None:
                    self._take(record)
                    return partial(self._work, record, spec)
            opened = self._count()
            for question in opened:
                if self._answerable(question, others):
                    return partial(self._answer, self.questions.take(question))
            for identity, baseline in self.baselines.items():
                if self.ledger.find(identity) is None:
                    return partial(self._work, claim(self.ledger, identity, baseline, self.me), baseline.spec)
            asking = {holder(question) for question in self._unclaimed(opened)} & others
            training = {record.worker for record in self.ledger.running()}
            trying = {record.worker for record in self.ledger.running() if record.role == "trial"}
            reason = self._over()
            if reason is None and self.state.trials_left() > len(asking):
                return partial(self._answer, self.questions.ask())
            final = self._claim_final(reason is not None and not (asking | trying) & others)
            if final is not None:
                return final
            busy = others & {*training, *map(holder, opened)}
            return partial(self._wait, len(busy)) if busy or reason is None else reason

    def _claim_final(self, over: bool) -> _Task | None:
        """Claim a final while the budgets last; those of finalists once all trials have ended."""
        if any(account.gone for account in self.state.accounts()):
            return None
        for due in self.state.finals().due(over):
            spec = self._spec(due.base)
            if spec is not None:
                more = {"worker": self.me, "whole": tokens(spec)}
                record = self.ledger.claim_final(due.base, due.name, due.again, **more)
                return partial(self._work, record, respec(spec, due.again))
        return None

    def _over(self) -> str | None:
        """Return why no further trial is started, or ""."""
        if self.fruitless >= PATIENCE and all(record.kind != "trial" for record in self.ledger):
            raise SearchError(hopeless(self.space, self.study))
        return over(self.state, self.folder, PATIENCE if self.fruitless >= PATIENCE else 0)

    def _unclaimed(self, questions: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        """Return the open proposals that may still become trials."""
        claimed = {record.asked for record in self.ledger}
        return [trial for trial in questions if trial.number not in claimed and not awaited(trial)]

    def _answerable(self, question: FrozenTrial, others: set[str]) -> bool:
        """Whether no worker holds it and what it was deferred for has ended."""
        until = awaited(question)
        if until == MORE_TRIALS:
            return self.state.trials_left() > 0
        record = self.ledger.find(until)
        return holder(question) not in others and (record is None or record.status != "running")

    def _wait(self, busy: int) -> None:
        others = f"{busy} other worker{'s' if busy > 1 else ''}"
        self.note(f"waiting for {others} to end, after {self.state.progress()}")
        self.pause()

    def _answer(self, trial: Trial) -> None:
        """Complete one proposal of the sampler, from wherever an earlier process left it."""
        try:
            self._complete(trial)
        except UpdateFinishedTrialError:
            # another worker, which considered this one dead, was quicker
            self._read_on()

    def _read_on(self) -> None:
        """Read the study past this worker's records of a trial that had ended: each raises once."""
        while True:
            with suppress(UpdateFinishedTrialError):
                self._count()
                return

    def _complete(self, trial: Trial) -> None:
        # the sampler writes what it finds now, and all parameters are written at once
        trial.relative_params  # noqa: B018
        with optuna_private.together(self.study):
            proposed = self.judge.candidate(partial(suggest, trial))
        if proposed.verdict != "feasible":
            self._tell(trial, proposed)
            return
        assert proposed.spec is not None
        record = self._claim(trial, proposed)
        if record is not None:
            self._work(record, proposed.spec)
        self._tell(trial, proposed)

    def _claim(self, trial: Trial, proposed: Candidate) -> Record | None:
        """Claim the candidate's spec, unless it has a record already or no trial is left."""
        # this reads what others wrote to the study, which takes long
        came = origin(trial)
        with self.alone():
            record = self.ledger.find(proposed.identity)
            if record is None:
                if self.state.trials_left() <= 0:
                    return None
                assert proposed.spec is not None
                more = {"worker": self.me, "whole": tokens(proposed.spec), "origin": came}
                return self.ledger.claim(
                    proposed.identity, trial.number, proposed.params, proposed.costs, **more
                )
            if free(record, self.store.others()):
                self._take(record)
                return record
            return None

    def _take(self, record: Record) -> None:
        """Take over an abandoned run."""
        self.left_by[record.key] = record.worker
        record.worker = self.me
        self.ledger.save(record)

    def _work(self, record: Record, spec: Spec) -> None:
        """Train a spec from one milestone to the next, until it ends, is stopped or crashes."""
        self.state.running, self.state.step, self.state.note = record, Step(record.tokens), ""
        self.state.since = time.time()
        self.watch("started", self.state)
        try:
            self._climb(record, spec)
        except TakenOver:
            self.state.running = None
            self.note(f"{record.folder}: another worker has taken it over")
            return
        self._publish()
        self.watch("ended", self.state)
        self.state.running = None
        if len(self.crashes) >= CRASHES:
            raise SearchError(crashing(self.folder, self.crashes))

    def _climb(self, record: Record, spec: Spec) -> None:
        rungs = () if record.kind == "final" else self.config.rungs
        stops = milestones(rungs, spec, record.costs)
        if (data := same_data(spec, self.ledger.every(), self.folder)) != record.data:
            with self.changing(record):
                record.data = data
        try:
            for i, stop in enumerate(stops):
                if i >= len(record.seen) and record.status == "running":
                    self._train(record, spec, stop, i == len(stops) - 1)
            self.crashes.clear()
        except Crash as crash:
            leave_cause(self.folder / record.folder, crash)
            with self.changing(record):
                record.status, record.reason, record.ended = "crashed", str(crash), time.time()
                record.lost = max(0, last_read(self.folder / record.folder) - record.tokens)
            # a sweep is expected to find learning rates that are too high
            if record.again.get("seed") != 0:
                self.crashes.append(record)

    def _train(self, record: Record, spec: Spec, stop: int, end: bool) -> None:
        """Train to a milestone; the results and the resulting status are written at once."""
        self.state.target = stop
        began, before = time.monotonic(), record.seconds
        self.state.since = time.time()

        def report(step: Step) -> None:
            self.state.step = step
            self._say_taken_over(record)
            record.seconds = before + time.monotonic() - began
            self.watch("progress", self.state)

        try:
            trained = self.train(spec, self.folder / record.folder, None if end else stop, report)
            values = self.goals.measured(trained.metrics, record.costs)
        finally:
            # a crashed run took time too
            record.seconds = before + time.monotonic() - began
            record.spans.append((self.state.since, time.time()))
        self.state.step = Step(trained.tokens, self.state.step.train_loss)
        self._say_taken_over(record)
        with self.changing(record):
            record.seen.append(Seen(trained.tokens, values, trained.metrics))
            record.status = self.arrivals.status_after(record, self.config.keep, end)
            if record.status != "running":
                record.ended = time.time()
        self.watch("rung", self.state)
        if note := moved_note(self.state, record):
            self.note(note)

    def _say_taken_over(self, record: Record) -> None:
        """Report whose run this worker resumes, as soon as its step is known."""
        self.state.left_by = self.left_by.pop(record.key, "")
        if self.state.left_by:
            self.state.note = taken_over(self.state, record)
            self.watch("taken_over", self.state)

    def _tell(self, trial: Trial, proposed: Candidate) -> None:
        """Tell the sampler once, or defer it to the end of the training that determines the outcome."""
        record = self.ledger.find(proposed.identity) if proposed.verdict == "feasible" else None
        if proposed.verdict == "feasible" and (record is None or record.status == "running"):
            with self.alone():
                record = self.ledger.find(proposed.identity)
                if record is None or record.status == "running":
                    if self.questions.is_mine(trial):
                        self.questions.put_off(trial, MORE_TRIALS if record is None else record.identity)
                    return
        if not self.questions.is_mine(trial):
            return
        outcome: str = proposed.verdict
        if record is not None and record.asked != trial.number:
            outcome = "repeat"
        tell(self.study, trial, outcome, proposed, record, self.worst)
        self.state.outcomes[outcome] += 1
        self.watch("proposed", self.state)

    def _count(self) -> list[FrozenTrial]:
        """Count the outcomes of all proposals since the last new spec; return the open ones, oldest first."""
        tally = self.questions.tally()
        self.state.outcomes, self.state.drawn = tally.outcomes.copy(), tally.drawn
        newest = self.ledger.digest.last_asked
        put_off = (trial for trial in tally.opened if awaited(trial))
        self.fruitless = tally.completed_after(newest) + sum(trial.number > newest for trial in put_off)
        return tally.opened

    def note(self, text: str) -> None:
        """Show a message, once."""
        if text != self.state.note:
            self.state.note = text
            self.watch("note", self.state)

    def lost(self) -> None:
        """Show no run as running while the store is away."""
        self.state.running = None

    def reopened(self) -> None:
        """Read records, arrivals and the study anew."""
        super().reopened()
        self.state.ledger = self.ledger
        self.arrivals = Arrivals(self.ledger.digest, self.goals)
        self.worst = Worst(self.ledger.digest, self.goals)
        self._open_study()
