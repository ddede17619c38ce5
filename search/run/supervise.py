"""A search by several workers, presented as one: one state, one stream of events, one end."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from composer.language.space import Space
from search.errors import SearchError
from search.objectives import Goals
from search.progress.state import Activity, State, Watch, silent
from search.propose.baselines import baselines
from search.run.crew import Crew, CrewMember, Plan
from search.run.interruption import STOPPING, Interruption, interruption
from search.run.open_store import open_search
from search.run.study import Outcome
from search.run.worker import opened
from search.run.worker_process import Ended, Note, SearchEvent, SearchJob
from search.store.ledger import Ledger
from search.store.store import Store
from search.trainer import Train, train

_RETRY = 1.0
"""Seconds between two attempts to reach a lost store."""


def runs_left(space: Space, folder: Path, storage: str | None) -> float:
    """Return how many runs of a search are left at most.

    Raises:
        SpecError, SearchError: as `run_search` does.
    """
    with open_search(space, folder, storage) as store:
        return opened(store, partial(_state, space, store)).runs_left()


def run_workers(
    space: Space,
    folder: Path,
    plan: Plan,
    train: Train = train,
    watch: Watch = silent,
    storage: str | None = None,
) -> Outcome:
    """Search `space` in `folder` with the workers of a plan, from its current state to its end.

    `watch` is called with the events of all of them. Signals that end a training (`SIGNALS`) end the
    workers, which save their runs first; a second signal, or `GRACE` seconds, kill them.

    Raises:
        SpecError, SearchError: as `run_search` does; also where all workers failed.
        KeyboardInterrupt: it was interrupted; no worker is left running.
    """
    with (
        open_search(space, folder, storage) as store,
        interruption() as stop,
        plan.start(SearchJob(space, folder.absolute(), storage, train)) as workers,
    ):
        state = opened(store, partial(_state, space, store))
        return _Supervisor(folder, store, state, watch, workers, stop).run()


class _Supervisor:
    def __init__(
        self,
        folder: Path,
        store: Store,
        state: State,
        watch: Watch,
        workers: Crew,
        stop: Interruption,
    ) -> None:
        self.folder, self.store, self.state, self.watch = folder, store, state, watch
        self.workers, self.stop = workers, stop
        self.state.local = {worker.number: Activity(note="starting") for worker in workers.each}
        self.begun = False
        self.lost_since: float | None = None
        self.reasons: list[str] = []
        self.failures: dict[str, str] = {}

    def run(self) -> Outcome:
        """Process the workers' messages until all have ended, and return how."""
        stopped = False
        for received in self.workers.messages():
            if self.stop.pass_on(self.workers):
                self._note(STOPPING)
            if received is None:
                continue
            worker, message = received
            if isinstance(message, SearchEvent):
                self._hear(worker, message)
            elif isinstance(message, Note):
                self.state.local[worker.number] = Activity(note=message.text)
                self._note(f"worker {worker.number}: {message.text}")
            elif message.how == "done":
                self.reasons.append(message.text)
                self.state.local[worker.number] = Activity(note="done")
            elif message.how == "stopped" or self.stop.began:
                stopped = True
                self.state.local[worker.number] = Activity(note="stopped")
            else:
                self._lose(worker, message)
        if stopped:
            raise KeyboardInterrupt
        if not self.reasons:
            raise SearchError(self._all_failed())
        self._refresh()
        self.state.running, self.state.local = None, {}
        self.watch("end", self.state)
        return Outcome(self.folder, self.state, self.reasons[-1], tuple(self.failures.values()))

    def _hear(self, worker: CrewMember, event: SearchEvent) -> None:
        """Take over the state that a worker sent, and pass its event on."""
        if event.event != "progress":
            self._refresh()
        state, doing = self.state, event.activity
        state.running, state.step = doing.record, doing.step
        state.target, state.since = doing.target, doing.since
        state.worker, state.left_by = event.worker, event.left_by
        state.note = f"worker {worker.number}: {doing.note}" if doing.note else ""
        state.local[worker.number] = doing
        # each worker knows the proposals as of its last refresh
        state.outcomes = state.outcomes | event.outcomes
        state.drawn = max(state.drawn, event.drawn, key=lambda drawn: drawn.costed)
        if event.event == "end" or (event.event == "begin" and self.begun):
            return
        self.begun = True
        self.watch(event.event, state)
        if event.event == "ended":
            state.local[worker.number] = Activity()

    def _lose(self, worker: CrewMember, ended: Ended) -> None:
        """Report that a worker failed; the others continue."""
        self.state.local[worker.number] = Activity(note="failed")
        output = f"; its output: {worker.output}" if worker.output else ""
        # a failure common to all is reported once
        message = f"worker {worker.number} failed: {ended.text}{output}"
        self.failures.setdefault(ended.text, message)
        left = sum(each.ended is None for each in self.workers.each)
        if left and self.begun:
            self._note(f"{message}; {left} other{'s go' if left > 1 else ' goes'} on")

    def _all_failed(self) -> str:
        if len(self.failures) == 1:
            return next(iter(self.failures)) + f"\n(all {len(self.workers.each)} workers ended with this)"
        return "\n".join(["all workers failed:", *self.failures.values()])

    def _note(self, text: str) -> None:
        self.state.running, self.state.note = None, text
        if self.begun:
            self.watch("note", self.state)

    def _refresh(self) -> None:
        """Read the records again, unless the workers report that their store is unreachable."""
        if self.lost_since is not None and time.monotonic() - self.lost_since < _RETRY:
            return
        try:
            if self.lost_since is not None:
                self.store.reopen()
                self.state.ledger = Ledger(self.store)
            self.state.ledger.refresh()
            self.lost_since = None
        except Exception as error:
            if not self.store.is_lost(error):
                raise
            self.lost_since = time.monotonic()


def _state(space: Space, store: Store) -> State:
    assert space.search is not None
    goals = Goals(space.search.objectives)
    return State(space.search, goals, Ledger(store), baselines=set(baselines(space)))
