"""The sampler's questions: running trials of Optuna's study, each in the hands of one worker, or put off.

Who holds one is written on the trial, so a question of a worker that died is found and answered by another.
Whoever takes or puts off one does so under the store's lock.
"""

from __future__ import annotations

from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

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
        new = create_trial(state=TrialState.RUNNING, system_attrs={_HELD: _hold(self._worker, "")})
        number = self._study._storage.create_new_trial(self._study._study_id, new)
        return Trial(self._study, number)

    def take(self, found: FrozenTrial) -> Trial:
        """Take over an open one; what it was given already it is given again."""
        self._write(found._trial_id, _hold(self._worker, ""))
        # there is no public way back to a running trial
        return Trial(self._study, found._trial_id)

    def put_off(self, trial: Trial, until: str) -> None:
        """Leave it open, to whoever comes first when `until` is there: the end of the record so named."""
        self._write(trial._trial_id, _hold("", until))

    def is_mine(self, trial: Trial) -> bool:
        """Whether it is open, and nobody took it from this worker."""
        found = self._study._storage.get_trial(trial._trial_id)
        return found.state == TrialState.RUNNING and holder(found) == self._worker

    def _write(self, trial_id: int, held: dict[str, Any]) -> None:
        self._study._storage.set_trial_system_attr(trial_id, _HELD, held)


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
