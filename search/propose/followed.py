"""Following the trials of a study, so that those that have ended are looked at once."""

from __future__ import annotations

from optuna import Study
from optuna.trial import FrozenTrial


class Followed:
    """The part of a study that one reader has seen."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[int] = []

    def look(self, study: Study) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """Return the trials that have ended since the last call, and those that have not, oldest first."""
        trials = study.get_trials(deepcopy=False)
        ended: list[FrozenTrial] = []
        opened: list[FrozenTrial] = []
        for number in (*self._open, *range(self._count, len(trials))):
            trial = trials[number]
            (ended if trial.state.is_finished() else opened).append(trial)
        self._count, self._open = len(trials), [trial.number for trial in opened]
        return ended, opened
