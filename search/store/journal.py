"""Optuna's journal in a file: repaired after a killed writer, opened as the study of a space."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.storages.journal import JournalFileOpenLock

from search.errors import SearchError
from search.objectives import Goals
from search.optuna_replay import SearchJournal, SearchStorage
from search.store.json_lines import parsed
from search.store.locks import take

_BLOCK = 4096
_PIECE = 1 << 18
"""Bytes that are read and parsed at once."""


class Journal(SearchJournal):
    """A journal in the format of Optuna's files, written without waiting for the disk.

    What a power failure may lose is restored from the ledger of trained specs. Unlike Optuna's own, it keeps
    the place of one record in memory, not of all.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._lock_file = KernelLock(path.with_name(path.name + ".lock"))
        self.path = path
        self._next = 0, 0
        path.touch()

    def read(self, start: int) -> Iterator[dict[str, Any]]:
        """Yield the whole records from a number on."""
        if start < self._next[0]:
            self._next = 0, 0
        # opened each time, since a network file system may answer from its cache
        with open(self.path, "rb") as file:
            file.seek(self._next[1])
            while read := file.readlines(_PIECE):
                # a line that is being written ends a read, or its rest would be taken for a line
                lines = [*takewhile(lambda line: line.endswith(b"\n"), read)]
                for line, log in zip(lines, parsed([line.decode() for line in lines]), strict=True):
                    number, offset = self._next
                    self._next = number + 1, offset + len(line)
                    if number >= start:
                        yield log
                if len(lines) < len(read):
                    return

    def append(self, logs: list[dict[str, Any]]) -> None:
        """Append records, one per line, after removing an incomplete last one."""
        lines = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs)
        self._lock_file.acquire()
        try:
            with self.path.open("a+b") as file:
                cut_tail(file)
                file.write(lines.encode())
        finally:
            self._lock_file.release()


def cut_tail(file: BinaryIO) -> None:
    """Cut off an incomplete last line; writers hold the lock, so none is in progress."""
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
    """A lock that the system releases when its holder dies; Optuna's own would remain."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), grace_period=None)
        self._path = path
        self._file: TextIOWrapper | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._file = self._path.open("a")
        take(self._file)
        return True

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


def open_study(path: Path, name: str, goals: Goals, sampler: BaseSampler) -> optuna.Study:
    """Open the study in the journal at `path`, created if missing.

    An incomplete last line is no damage: readers leave it out, and the next writer cuts it off.

    Raises:
        SearchError: the journal is damaged before its last record.
    """
    try:
        return named_study(SearchStorage(Journal(path)), name, goals, sampler)
    except (ValueError, TypeError, KeyError):
        lock = KernelLock(path.with_name(path.name + ".lock"))
        lock.acquire()
        try:
            mend(path)
        finally:
            lock.release()
    return named_study(SearchStorage(Journal(path)), name, goals, sampler)


def named_study(storage: BaseStorage, name: str, goals: Goals, sampler: BaseSampler) -> optuna.Study:
    """Open a study in a storage, created if missing."""
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
    """Cut off an incomplete last record, which would make Optuna fail later.

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
