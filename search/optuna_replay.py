"""Optuna's journal storage for searches with thousands of trials, which every worker replays.

Optuna copies a trial for each of its some twenty records, parses the distribution of each value anew, and
goes through all trials for a list of them. Here a trial is copied once for each batch of records, and what is
equal in many trials is one object. What readers see is the same, and so is the journal.
"""

from __future__ import annotations

import copy
import sys
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    json_to_distribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal._storage import JournalStorageReplayResult
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.gathered import Gathered
from search.pool import Pool


class SearchJournal(Gathered, BaseJournalBackend):
    """A journal that this storage replays."""


class SearchStorage(JournalStorage):
    """Optuna's storage over a journal, with a faster and smaller replay."""

    def __init__(self, backend: SearchJournal) -> None:
        # nothing is read while records are gathered, so Optuna's own replay stays empty
        with backend.together():
            super().__init__(backend)
        self._replay_result = Replay(self._worker_id_prefix)
        with self._thread_lock:
            self._sync_with_backend()

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """Return the directions, which never change; those of a known study are not read again."""
        with self._thread_lock:
            known = self._replay_result._studies.get(study_id)
        return super().get_study_directions(study_id) if known is None else known.directions


class Replay(JournalStorageReplayResult):
    """The studies and trials of a journal.

    A trial that readers may have is never changed: the first record of a batch that changes it copies it.
    """

    def __init__(self, worker_id_prefix: str) -> None:
        super().__init__(worker_id_prefix)
        self._in_order: dict[int, list[FrozenTrial]] = defaultdict(list)
        self._unseen: set[int] = set()
        # of each parameter of a study, the first trial that has it and its distribution there
        self._first: dict[tuple[int, str], tuple[int, BaseDistribution]] = {}
        self._distributions: dict[str, BaseDistribution] = {}
        self._together: dict[tuple[tuple[str, int], ...], dict[str, BaseDistribution]] = {}
        self._pool = Pool()

    def apply_logs(self, logs: Iterable[dict[str, Any]]) -> None:
        """Take over a batch of records."""
        self._unseen.clear()
        super().apply_logs(logs)

    def get_all_trials(self, study_id: int, states: Container[TrialState] | None) -> list[FrozenTrial]:
        """Return the trials of a study by number."""
        self.get_study(study_id)
        trials = self._in_order[study_id]
        return [*trials] if states is None else [trial for trial in trials if trial.state in states]

    def _apply_create_trial(self, log: dict[str, Any]) -> None:
        before = len(self._trials)
        super()._apply_create_trial(log)
        if len(self._trials) == before:
            return
        trial = self._trials[before]
        self._in_order[log["study_id"]].append(trial)
        self._unseen.add(before)
        for name, text in log.get("distributions", {}).items():
            self._distribute(trial, name, self._distribution(text))
        self._settle(trial)

    def _apply_set_trial_param(self, log: dict[str, Any]) -> None:
        trial_id, name = log["trial_id"], log["param_name"]
        if not self._trial_exists_and_updatable(trial_id, log):
            return
        distribution = self._distribution(log["distribution"])
        known = self._first.get((self._trial_id_to_study_id[trial_id], name))
        if known is not None and known[1] is not distribution:
            try:
                check_distribution_compatibility(known[1], distribution)
            except ValueError:
                if self._is_issued_by_this_worker(log):
                    raise
                return
        trial = self._changed(trial_id)
        trial.params[name] = distribution.to_external_repr(log["param_value_internal"])
        self._distribute(trial, name, distribution)

    def _apply_set_trial_user_attr(self, log: dict[str, Any]) -> None:
        if self._trial_exists_and_updatable(log["trial_id"], log):
            self._changed(log["trial_id"]).user_attrs.update(log["user_attr"])

    def _apply_set_trial_system_attr(self, log: dict[str, Any]) -> None:
        if self._trial_exists_and_updatable(log["trial_id"], log):
            self._changed(log["trial_id"]).system_attrs.update(log["system_attr"])

    def _apply_set_trial_intermediate_value(self, log: dict[str, Any]) -> None:
        super()._apply_set_trial_intermediate_value(log)
        if log["trial_id"] in self._trials:
            self._enlist(log["trial_id"])

    def _apply_set_trial_state_values(self, log: dict[str, Any]) -> None:
        before = self._trials.get(log["trial_id"])
        super()._apply_set_trial_state_values(log)
        if self._trials.get(log["trial_id"]) is not before:
            self._settle(self._enlist(log["trial_id"]))

    def _changed(self, trial_id: int) -> FrozenTrial:
        """Return a trial to be changed, which no reader has."""
        if trial_id not in self._unseen:
            trial = copy.copy(self._trials[trial_id])
            trial.params, trial.distributions = {**trial.params}, {**trial.distributions}
            trial.user_attrs, trial.system_attrs = {**trial.user_attrs}, {**trial.system_attrs}
            self._trials[trial_id] = trial
            self._unseen.add(trial_id)
            self._enlist(trial_id)
        return self._trials[trial_id]

    def _enlist(self, trial_id: int) -> FrozenTrial:
        """Put a trial in the place of the one that it replaces."""
        trial = self._trials[trial_id]
        self._in_order[self._trial_id_to_study_id[trial_id]][trial.number] = trial
        return trial

    def _distribution(self, text: str) -> BaseDistribution:
        if text not in self._distributions:
            self._distributions[text] = json_to_distribution(text)
        return self._distributions[text]

    def _distribute(self, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> None:
        trial.distributions[name] = distribution
        place = self._trial_id_to_study_id[trial._trial_id], name
        if place not in self._first or trial.number <= self._first[place][0]:
            self._first[place] = trial.number, distribution

    def _settle(self, trial: FrozenTrial) -> None:
        """Share what a trial that has ended has in common with others; readers cannot tell."""
        if not trial.state.is_finished():
            return
        which = tuple((name, id(each)) for name, each in trial.distributions.items())
        trial.distributions = self._together.setdefault(which, trial.distributions)
        trial.params = {sys.intern(name): value for name, value in trial.params.items()}
        trial.user_attrs = self._shared(trial.user_attrs, trial.params)
        trial.system_attrs = self._shared(trial.system_attrs, trial.params)

    def _shared(self, attributes: Mapping[str, Any], params: dict[str, Any]) -> dict[str, Any]:
        shared = {}
        for name, value in attributes.items():
            if isinstance(value, dict) and _same(value, params):
                value = params
            elif isinstance(value, dict | str):
                value = self._pool.shared(name, value)
            shared[sys.intern(name)] = value
        return shared


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    # 1, 1.0 and true are equal, but not the same
    return one == other and all(type(value) is type(other[name]) for name, value in one.items())
