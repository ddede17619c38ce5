"""The sampler's questions: running trials of Optuna's study, each in the hands of one worker, or put off.

Who holds one is written on the trial, so a question of a worker that died is found and answered by another.
Whoever takes or puts off one does so under the store's lock.
"""

from __future__ import annotations

from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from search import optuna_private
from search.propose.optuna_adapter import IMPORTED, OUTCOME

MORE_TRIALS = "more trials"
"""What a question waits for that came to a new spec when no trial was left."""

_HELD = "held"


class Questions:
    """The questions of one study, as one worker sees them."""

    def __init__(self, study: Study, worker: str) -> None:
        self._study, self._worker = study, worker

    def told_and_open(self) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Return those that were answered, but for imported ones, and the open ones, oldest first."""
        trials = self._study.get_trials(deepcopy=False)
        told = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        own = [trial for trial in told if trial.user_attrs[OUTCOME] != IMPORTED]
        return own, [trial for trial in trials if trial.state == TrialState.RUNNING]

    def ask(self) -> Trial:
        """Ask the sampler for another, to be answered by this worker."""
        # it is this worker's from the moment it is there
        return optuna_private.ask(self._study, {_HELD: _hold(self._worker, "")})

    def take(self, found: FrozenTrial) -> Trial:
        """Take over an open one; what it was given already it is given again."""
        self._write(found, _hold(self._worker, ""))
        return optuna_private.running(self._study, found)

    def put_off(self, trial: Trial, until: str) -> None:
        """Leave it open, to whoever comes first when `until` is there: the end of the record so named."""
        self._write(trial, _hold("", until))

    def is_mine(self, trial: Trial) -> bool:
        """Whether it is open, and nobody took it from this worker."""
        found = self._study.get_trials(deepcopy=False)[trial.number]
        return found.state == TrialState.RUNNING and holder(found) == self._worker

    def _write(self, trial: Trial | FrozenTrial, held: dict[str, Any]) -> None:
        optuna_private.set_system_attr(self._study, trial, _HELD, held)


def holder(trial: FrozenTrial) -> str:
    """Return the name of the worker that has it in hand, empty for none."""
    return str(_held(trial).get("by", ""))


def awaited(trial: FrozenTrial) -> str:
    """Return what it was put off for, empty for nothing."""
    return str(_held(trial).get("until", ""))


def _hold(worker: str, until: str) -> dict[str, Any]:
    return {"by": worker, "until": until}


def _held(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.system_attrs.get(_HELD, {}))
