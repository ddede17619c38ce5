"""The requirements on every store, as functions of what opens it: each call is one more worker."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from subprocess import PIPE, Popen
from tempfile import TemporaryDirectory

import optuna
from optuna.samplers import RandomSampler

from composer.language.schema.search import Objective
from composer.testing.find import UnknownName
from composer.testing.run import Finding, examined
from search.errors import SearchError
from search.objectives import Goals
from search.run.open_store import check_storage, open_store
from search.store.folder import enter
from search.store.ledger import Ledger
from search.store.store import Store
from search.testing.spaces import toy

_WAIT = 60.0
"""Seconds within which a change has to become visible."""
_ROUNDS = 20


class Place:
    """The location of the stores of one search: a folder, and a database if `storage` is its URL."""

    def __init__(self, folder: Path, storage: str | None, name: str = "") -> None:
        self.folder, self.storage = folder, storage
        self.name = name or f"check-{token_hex(4)}"

    @contextmanager
    def open(self) -> Iterator[Store]:
        """Open the store as one more worker."""
        space = toy(f"name={self.name}")
        enter(self.folder, space)
        with open_store(self.folder, space, self.storage) as store:
            store.touch()
            yield store

    def worker(self) -> Popen[str]:
        """Start a process that opens the store, puts one record and holds the lock until it is killed."""
        command = [sys.executable, "-m", __name__, str(self.folder), self.storage or "", self.name]
        return Popen(command, stdout=PIPE, text=True)


def _seen(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + _WAIT
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def check_records(place: Place) -> None:
    """A record that one worker puts is read by another once per change, and by all that reopen."""
    with place.open() as one, place.open() as other:
        with one.lock():
            record = Ledger(one).claim("first", 0, {"width": 16}, {"params": 5.0})
        assert [each.identity for each in other.changed()] == ["first"]
        assert other.changed() == []
        record.seconds = 2.5
        with one.lock():
            Ledger(one).save(record)
        assert [each.seconds for each in other.changed()] == [2.5]
        other.reopen()
        (again,) = other.changed()
        assert again == record, f"expected {record}, got {again}"


def check_lock(place: Place) -> None:
    """Under the lock no two workers change one record at once."""
    with place.open() as first, first.lock():
        Ledger(first).claim("first", 0, {}, {})
    failures: list[BaseException] = []

    def count() -> None:
        try:
            with place.open() as store:
                ledger = Ledger(store)
                for _ in range(_ROUNDS):
                    with store.lock():
                        ledger.refresh()
                        (record,) = ledger
                        record.seconds += 1
                        ledger.save(record)
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=count, daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(_WAIT)
    assert not failures, f"{type(failures[0]).__name__}: {failures[0]}"
    with place.open() as store:
        (record,) = store.changed()
        assert record.seconds == 2 * _ROUNDS, f"{2 * _ROUNDS - record.seconds:.0f} changes were lost"


def check_leases(place: Place) -> None:
    """A worker sees the others that are alive, and not one that left."""
    with place.open() as one:
        with place.open() as other:
            assert one.others() == {other.worker.name}
            assert other.others() == {one.worker.name}
        assert one.others() == set(), "a worker that left is still seen"


def check_study(place: Place) -> None:
    """Results that one worker reports to Optuna's study are read by another."""
    goals = Goals([Objective(maximize="accuracy")])
    with place.open() as one, place.open() as other:
        study = one.study(goals, RandomSampler(seed=0))
        trial = study.ask()
        value = trial.suggest_float("x", 0, 1)
        study.tell(trial, value)
        (stored,) = other.study(goals, RandomSampler(seed=0)).get_trials()
        assert (stored.params, stored.values) == ({"x": value}, [value])


def check_kill(place: Place) -> None:
    """After a worker is killed, its records remain, its lock is free, and it counts as dead."""
    with place.open() as store:
        process = place.worker()
        try:
            assert process.stdout is not None
            name = process.stdout.readline().strip()
            assert name, "the other worker did not begin"
            assert store.others() == {name}, "a worker in another process is not seen"
            process.kill()
        finally:
            process.kill()
            process.communicate(timeout=_WAIT)
        assert _seen(lambda: store.others() == set()), "a killed worker is still seen"
        entered = threading.Event()

        def enter_lock() -> None:
            with place.open() as another, another.lock():
                entered.set()

        threading.Thread(target=enter_lock, daemon=True).start()
        assert entered.wait(_WAIT), "a killed worker still holds the lock"
        assert [record.identity for record in store.changed()] == ["killed"]


CHECKS: Mapping[str, Callable[[Place], None]] = {
    "records": check_records,
    "the lock": check_lock,
    "leases": check_leases,
    "the study": check_study,
    "a killed worker": check_kill,
}


def conformance(name: str, settings: Sequence[str] = ()) -> Iterator[Finding]:
    """Yield the failures of each check on a store: `folder`, or the URL of a database.

    Raises:
        UnknownName: it is the URL of something else, the driver is missing, or settings are given.
    """
    storage = None if name == "folder" else name
    try:
        if storage is not None:
            check_storage(storage)
    except SearchError as error:
        raise UnknownName(f"expected folder or a URL; {error}") from None
    if settings:
        raise UnknownName("--set is for tasks")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return _findings(storage)


def _findings(storage: str | None) -> Iterator[Finding]:
    for check, holds in CHECKS.items():
        with TemporaryDirectory() as folder:
            name = "folder" if storage is None else "database"
            yield from examined({name: Place(Path(folder) / "search", storage)}, {check: holds})


def _work(folder: str, storage: str, name: str) -> None:
    place = Place(Path(folder), storage or None, name)
    with place.open() as store:
        with store.lock():
            Ledger(store).claim("killed", 0, {}, {})
        with store.lock():
            print(store.worker.name, flush=True)
            time.sleep(_WAIT)


if __name__ == "__main__":
    _work(*sys.argv[1:])
