"""Open proposals: running trials of Optuna's study, each held by one worker, or deferred.

The holder is written on the trial, so another worker finds and completes the proposal of one that died.
Proposals are taken and deferred under the store's lock.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from search import optuna_private
from search.propose.draft_counts import DRAWN, Drawn, total
from search.propose.followed import Followed
from search.propose.optuna_adapter import IMPORTED, OUTCOME

MORE_TRIALS = "more trials"
"""A deferred proposal waits for more trials if its spec is new and no trial was left."""

_HELD = "held"


@dataclass
class Tally:
    """The proposals of a study, without imported trials.

    Attributes:
        outcomes: how many completed ones had each outcome.
        drawn: the drafts of these, in all.
        numbers: their trial numbers, ascending.
        opened: the open ones, oldest first.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    drawn: Drawn = field(default_factory=Drawn)
    numbers: list[int] = field(default_factory=list)
    opened: list[FrozenTrial] = field(default_factory=list)

    def add(self, trial: FrozenTrial) -> None:
        """Add a completed one."""
        outcome = trial.user_attrs[OUTCOME]
        if outcome != IMPORTED:
            self.outcomes[outcome] += 1
            self.drawn = total([{DRAWN: vars(self.drawn)}, trial.user_attrs])
            insort(self.numbers, trial.number)

    def completed_after(self, number: int) -> int:
        """Return how many completed ones are after a trial number."""
        return len(self.numbers) - bisect_right(self.numbers, number)


class Questions:
    """The open proposals of one study, as one worker sees them."""

    def __init__(self, study: Study, worker: str) -> None:
        self._study, self._worker = study, worker
        self._tally, self._followed = Tally(), Followed()

    def tally(self) -> Tally:
        """Count all proposals of the study; the same object at each call."""
        ended, opened = self._followed.look(self._study)
        for trial in ended:
            if trial.state == TrialState.COMPLETE:
                self._tally.add(trial)
        self._tally.opened = [trial for trial in opened if trial.state == TrialState.RUNNING]
        return self._tally

    def ask(self) -> Trial:
        """Ask the sampler for another proposal, held by this worker."""
        # it is held by this worker from its creation on
        return optuna_private.ask(self._study, {_HELD: _hold(self._worker, "")})

    def take(self, trial: FrozenTrial) -> Trial:
        """Take over an open proposal; its suggested values stay the same."""
        self._write(trial, _hold(self._worker, ""))
        return optuna_private.running(self._study, trial)

    def put_off(self, trial: Trial, until: str) -> None:
        """Defer it until the record named `until` has ended; then any worker may take it."""
        self._write(trial, _hold("", until))

    def is_mine(self, trial: Trial) -> bool:
        """Whether it is open and still held by this worker."""
        state = optuna_private.frozen(trial)
        return state.state == TrialState.RUNNING and holder(state) == self._worker

    def _write(self, trial: Trial | FrozenTrial, held: dict[str, Any]) -> None:
        optuna_private.set_system_attr(self._study, trial, _HELD, held)


def holder(trial: FrozenTrial) -> str:
    """Return the name of the worker that holds it, or ""."""
    return str(_held(trial).get("by", ""))


def awaited(trial: FrozenTrial) -> str:
    """Return the record that it was deferred for, or ""."""
    return str(_held(trial).get("until", ""))


def _hold(worker: str, until: str) -> dict[str, Any]:
    return {"by": worker, "until": until}


def _held(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.system_attrs.get(_HELD, {}))
