"""The store in a folder: one file for each record and each lease, and Optuna's journal."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler

from search.objectives import Goals
from search.store.change_log import ChangeLog
from search.store.folder import CHANGES, JOURNAL, LOCK, RECORDS, WORKERS
from search.store.journal import open_study
from search.store.lease import SUFFIX, Lease, is_alive, this_worker
from search.store.ledger import Record, RecordFiles
from search.store.locks import exclusive, nothing

_LOOK = 60.0
"""Seconds after which all records are looked at again, for those that people or older versions changed."""


class FolderStore:
    """A store shared by all workers that see the same folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self.worker = this_worker()
        self._folder, self._name = folder, name
        self._records = RecordFiles(folder / RECORDS)
        self._changes = ChangeLog(folder / CHANGES)
        self._looked = 0.0
        self._locked = False
        self._lease = Lease(folder / WORKERS, self.worker)
        self._known: dict[str, tuple[str, int]] = {}

    @contextmanager
    def lock(self, meanwhile: Callable[[], None] = nothing) -> Iterator[None]:
        """Hold the folder's lock file."""
        with exclusive(self._folder / LOCK, meanwhile):
            self._changes.repair()
            self._locked = True
            try:
                yield
            finally:
                self._locked = False

    def changed(self) -> list[Record]:
        """Read the records that changed."""
        now = time.monotonic()
        # a look at all records takes too long while others wait
        if self._looked and (self._locked or now - self._looked < _LOOK):
            return self._records.changed_among(self._changes.changed())
        self._looked = now
        self._changes.skip()
        return self._records.changed()

    def put(self, record: Record) -> None:
        """Write a record's file."""
        with self._changes.noting(record.key):
            self._records.put(record)

    def study(self, goals: Goals, sampler: BaseSampler) -> optuna.Study:
        """Open the journal, repaired if necessary."""
        return open_study(self._folder / JOURNAL, self._name, goals, sampler)

    def touch(self) -> None:
        """Touch the lease."""
        self._lease.touch()

    def others(self) -> set[str]:
        """Judge other leases by the time at which our own was just touched."""
        now, alive = self._lease.touch(), set()
        for path in (self._folder / WORKERS).glob(f"*{SUFFIX}"):
            if path == self._lease.path:
                continue
            machine, pid = self._whose(path)
            if is_alive(path, machine, pid, now - _touched(path)):
                alive.add(path.name.removesuffix(SUFFIX))
            else:
                path.unlink(missing_ok=True)
        return alive

    def is_lost(self, error: Exception) -> bool:
        """Never: a folder exists or not, and waiting for it is left to the system."""
        return False

    def reopen(self) -> None:
        """Read all records again."""
        self._records, self._looked = RecordFiles(self._folder / RECORDS), 0.0

    def lost(self, error: Exception, waited: float | None) -> str:
        """Never called."""
        return str(error)

    def export(self, records: Iterable[Record]) -> None:
        """Do nothing: they are in the folder."""

    def close(self) -> None:
        """Remove the lease."""
        self._lease.close()

    def _whose(self, path: Path) -> tuple[str, int]:
        if path.name not in self._known:
            try:
                fields = json.loads(path.read_text(encoding="utf-8"))
                self._known[path.name] = str(fields["machine"]), int(fields["pid"])
            except (OSError, ValueError, KeyError, TypeError):
                return "", 0
        return self._known[path.name]


def _touched(path: Path) -> float:
    # opened, since a network file system may answer a bare stat from its cache
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0
