"""What workers share: records, leases and Optuna's study; in a folder, or in a database."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

import optuna
from optuna.samplers import BaseSampler

from search.objectives import Goals
from search.store.lease import Worker
from search.store.ledger import Record, Records


class Store(Records, Protocol):
    """The truth that all workers of a search share."""

    @property
    def worker(self) -> Worker:
        """The worker that looks at it."""

    def lock(self) -> AbstractContextManager[None]:
        """Keep all other workers from claiming; held for moments, not nested."""

    def study(self, goals: Goals, sampler: BaseSampler) -> optuna.Study:
        """Open Optuna's study, made where there is none."""

    def touch(self) -> None:
        """Say that this worker is alive."""

    def others(self) -> set[str]:
        """Return the names of the other workers that are alive; forget the dead."""

    def is_lost(self, error: Exception) -> bool:
        """Whether an error means that the store is out of reach, maybe for a while."""

    def reopen(self) -> None:
        """Reach for it again, with nothing remembered."""

    def lost(self, error: Exception, waited: float | None) -> str:
        """Say that it is out of reach, and what happens now, or after `waited` seconds in vain."""

    def export(self, records: Iterable[Record]) -> None:
        """Leave the records in the search's folder, for whoever reads folders; under the publishing lock."""

    def close(self) -> None:
        """Leave: this worker is no longer alive."""
