"""Open proposals: running trials of Optuna's study, each held by one worker, or deferred.

The holder is written on the trial, so another worker finds and completes the proposal of one that died.
Proposals are taken and deferred under the store's lock.
"""

from __future__ import annotations

from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from search import optuna_private
from search.propose.optuna_adapter import IMPORTED, OUTCOME

MORE_TRIALS = "more trials"
"""What a deferred proposal waits for if it was a new spec but no trial was left."""

_HELD = "held"


class Questions:
    """The open proposals of one study, as one worker sees them."""

    def __init__(self, study: Study, worker: str) -> None:
        self._study, self._worker = study, worker

    def told_and_open(self) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Return completed proposals without imported ones, and the open ones, oldest first."""
        trials = self._study.get_trials(deepcopy=False)
        told = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        own = [trial for trial in told if trial.user_attrs[OUTCOME] != IMPORTED]
        return own, [trial for trial in trials if trial.state == TrialState.RUNNING]

    def ask(self) -> Trial:
        """Ask the sampler for another proposal, held by this worker."""
        # it is held by this worker from its creation on
        return optuna_private.ask(self._study, {_HELD: _hold(self._worker, "")})

    def take(self, found: FrozenTrial) -> Trial:
        """Take over an open proposal; its suggested values stay the same."""
        self._write(found, _hold(self._worker, ""))
        return optuna_private.running(self._study, found)

    def put_off(self, trial: Trial, until: str) -> None:
        """Defer it until the record named `until` has ended; then any worker may take it."""
        self._write(trial, _hold("", until))

    def is_mine(self, trial: Trial) -> bool:
        """Whether it is open and still held by this worker."""
        found = self._study.get_trials(deepcopy=False)[trial.number]
        return found.state == TrialState.RUNNING and holder(found) == self._worker

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
