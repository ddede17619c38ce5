"""The sampler's questions: running trials of Optuna's study, each in the hands of one worker, or put off.

Who holds one is written on the trial, so a question of a worker that died is found and answered by another.
All of this happens under the store's lock.
"""

from __future__ import annotations

from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, Trial, TrialState

MORE_TRIALS = "more trials"
"""What a question waits for that came to a new spec when no trial was left."""

_HELD = "held"


class Questions:
    """The questions of one study, as one worker sees them."""

    def __init__(self, study: Study, worker: str) -> None:
        self._study, self._worker = study, worker

    def ask(self) -> Trial:
        """Ask the sampler for another, to be answered by this worker."""
        trial = self._study.ask()
        self._hold(trial._trial_id, self._worker, "")
        return trial

    def take(self, found: FrozenTrial) -> Trial:
        """Take over an open one; what it was given already it is given again."""
        self._hold(found._trial_id, self._worker, "")
        # there is no public way back to a running trial
        return Trial(self._study, found._trial_id)

    def put_off(self, trial: Trial, until: str) -> None:
        """Leave it open, to whoever comes first when `until` is there: the end of the record so named."""
        self._hold(trial._trial_id, "", until)

    def is_mine(self, trial: Trial) -> bool:
        """Whether it is open, and nobody took it from this worker."""
        found = self._study._storage.get_trial(trial._trial_id)
        return found.state == TrialState.RUNNING and holder(found) == self._worker

    def _hold(self, trial_id: int, worker: str, until: str) -> None:
        self._study._storage.set_trial_system_attr(trial_id, _HELD, {"by": worker, "until": until})


def holder(trial: FrozenTrial) -> str:
    """Return the name of the worker that has it in hand, empty for none."""
    return str(_held(trial).get("by", ""))


def awaited(trial: FrozenTrial) -> str:
    """Return what it was put off for, empty for nothing."""
    return str(_held(trial).get("until", ""))


def _held(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.system_attrs.get(_HELD, {}))
