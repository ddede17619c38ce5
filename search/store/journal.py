"""Optuna's journal on a file: mended where a killed writer tore it, opened as the study of a space."""

from __future__ import annotations

import fcntl
import json
import os
import warnings
from io import TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from search.errors import SearchError
from search.objectives import Goals

_BLOCK = 4096


class Journal(JournalFileBackend):
    """Optuna's file, written without waiting for the disk at each of a trial's twenty or so records.

    What a power cut may take, the ledger of trained specs gives back.
    """

    def __init__(self, path: Path) -> None:
        self._lock_file = KernelLock(path.with_name(path.name + ".lock"))
        super().__init__(str(path), self._lock_file)
        self.path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records, one a line, after mending what a killed writer left of its last one."""
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
        self._lock_file.acquire()
        try:
            with self.path.open("a+b") as file:
                _cut_tail(file)
                file.write(lines.encode())
        finally:
            self._lock_file.release()


def _cut_tail(file: BinaryIO) -> None:
    """Cut off what follows the last whole line; writers hold the lock, so nobody is still writing it."""
    end = whole = file.seek(0, os.SEEK_END)
    while whole > 0:
        start = max(0, whole - _BLOCK)
        file.seek(start)
        newline = file.read(whole - start).rfind(b"\n")
        whole = start + newline + 1
        if newline >= 0:
            break
    if whole < end:
        file.truncate(whole)
        file.seek(whole)


class KernelLock(JournalFileOpenLock):
    """A lock that the system drops when its holder dies; Optuna's own would stay behind."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), grace_period=None)
        self._path = path
        self._file: TextIOWrapper | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._file = self._path.open("a")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let it go."""
        if self._file is not None:
            self._file.close()
            self._file = None


def open_study(path: Path, name: str, goals: Goals, sampler: BaseSampler) -> optuna.Study:
    """Open the study kept in the journal at `path`, made where there is none; under the store's lock.

    Raises:
        SearchError: the journal is damaged before its last record.
    """
    lock = KernelLock(path.with_name(path.name + ".lock"))
    lock.acquire()
    try:
        mend(path)
    finally:
        lock.release()
    return named_study(JournalStorage(Journal(path)), name, goals, sampler)


def named_study(storage: BaseStorage, name: str, goals: Goals, sampler: BaseSampler) -> optuna.Study:
    """Open a study in a storage, made where there is none."""
    study = optuna.create_study(
        storage=storage,
        sampler=sampler,
        study_name=name,
        directions=list(goals.directions),
        load_if_exists=True,
    )
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(goals.names))
    return study


def mend(path: Path) -> None:
    """Cut off a last record that was not written whole, at which Optuna would fail later.

    Raises:
        SearchError: a record before the last one is damaged.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    good = next((n for n, line in enumerate(lines) if not _whole(line)), len(lines))
    if good < len(lines) - 1:
        raise SearchError(
            f"{path}:{good + 1}: expected a record of the study, got damage in the middle of the file\n"
            "restore the file from a copy; or delete it, and the search continues with the trials in "
            "records/; only the sampler starts over"
        )
    if good < len(lines):
        with path.open("r+b") as file:
            file.truncate(sum(map(len, lines[:good])))


def _whole(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False
