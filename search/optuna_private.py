"""Every private part of Optuna that a search uses beside its replay of a journal, each with the reason.

All else goes through Optuna's public interface; a lint rule holds the other files to that.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from optuna import Study
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from search.gathered import Gathered


def set_user_attr(study: Study, trial: FrozenTrial, name: str, value: Any) -> None:
    """Write a user attribute; a sampler is given a `FrozenTrial`, whose public setter changes only a copy."""
    study._storage.set_trial_user_attr(trial._trial_id, name, value)


def set_system_attr(study: Study, trial: Trial | FrozenTrial, name: str, value: Any) -> None:
    """Write a system attribute, as samplers do; the public setter of a trial is deprecated."""
    study._storage.set_trial_system_attr(trial._trial_id, name, value)


def together(study: Study) -> AbstractContextManager[None]:
    """Append what is written inside to the journal of a study at once, if it has one of ours."""
    backend = getattr(study._storage, "_backend", None)
    return backend.together() if isinstance(backend, Gathered) else nullcontext()


def ask(study: Study, system_attrs: dict[str, Any]) -> Trial:
    """Ask for a trial that has attributes from the moment it exists; `Study.ask` sets none."""
    new = create_trial(state=TrialState.RUNNING, system_attrs=system_attrs)
    return Trial(study, study._storage.create_new_trial(study._study_id, new))


def running(study: Study, trial: FrozenTrial) -> Trial:
    """Return a running trial that another process asked for; there is no public way back to one."""
    return Trial(study, trial._trial_id)


def frozen(trial: Trial) -> FrozenTrial:
    """Return a trial as it is stored now; the public way reads all trials."""
    return trial.study._storage.get_trial(trial._trial_id)


def generation_key() -> str:
    """Return the system attribute by which NSGA-II counts generations, to enter imported trials in one."""
    return NSGAIISampler._get_generation_key()
