"""The store that workers share: records, leases and Optuna's study, in a folder or in a database."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

import optuna
from optuna.samplers import BaseSampler

from search.objectives import Goals
from search.store.lease import Worker
from search.store.ledger import Record, Records
from search.store.locks import nothing


class Store(Records, Protocol):
    """The state that all workers of a search share."""

    @property
    def worker(self) -> Worker:
        """The worker that opened it."""

    def lock(self, meanwhile: Callable[[], None] = nothing) -> AbstractContextManager[None]:
        """Prevent all other workers from claiming; held briefly, not reentrant.

        Many workers may wait for it, so what takes long belongs before it, or into `meanwhile`, which is
        called now and then while waiting.
        """

    def study(self, goals: Goals, sampler: BaseSampler) -> optuna.Study:
        """Open Optuna's study, created if missing."""

    def touch(self) -> None:
        """Mark this worker as alive."""

    def others(self) -> set[str]:
        """Return the names of the other live workers; remove dead ones."""

    def is_lost(self, error: Exception) -> bool:
        """Whether an error means that the store is unreachable, perhaps temporarily."""

    def reopen(self) -> None:
        """Connect to it again, without cached records."""

    def lost(self, error: Exception, waited: float | None) -> str:
        """Return that it is unreachable and what happens next, or after `waited` seconds in vain."""

    def export(self, records: Iterable[Record]) -> None:
        """Write the records into the search's folder for its readers; call under the publishing lock."""

    def close(self) -> None:
        """Close the store; this worker is no longer alive."""
