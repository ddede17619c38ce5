"""Kill a search at each of its durable steps in turn, repeat it, and compare with one left alone.

`main` forks, so it belongs in a process of its own; it prints how many steps there are.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from pathlib import Path

import optuna
from fake_training import TWO, FakeTraining, toy
from optuna.storages.journal import JournalFileBackend

from composer.language.space import Space
from search.run.study import run_search
from search.store.journal import Journal

_append, _replace = Journal.append, os.replace


class Killer:
    """Counts durable steps; at number `at` the process dies, before it, after it or amid it."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.stage = at % 3
        os.replace = self.replace
        Journal.append = lambda backend, logs: self.append(backend, logs)

    def in_database(self) -> None:
        """Count the steps in a database too: what is put is not yet committed, and lost with its writer."""
        from search.store.database import DatabaseStore
        from search.store.database_journal import DatabaseJournal

        append, put = DatabaseJournal.append, DatabaseStore.put
        DatabaseJournal.append = lambda backend, logs: self.step(lambda: append(backend, logs))
        DatabaseStore.put = lambda store, record: self.step(lambda: put(store, record))

    def due(self) -> bool:
        self.left -= 1
        return self.left == 0

    def step(self, act, tear=lambda: None):
        """Do a durable step, which `tear` leaves done in part, and return what it returns."""
        due = self.due()
        done = act() if not due or self.stage else None
        if due and self.stage == 2:
            tear()
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    def replace(self, old, new) -> None:
        self.step(lambda: _replace(old, new))

    def append(self, backend, logs) -> None:
        def tear() -> None:
            os.truncate(backend.path, os.path.getsize(backend.path) - 7)

        self.step(lambda: _append(backend, logs), tear)


def search(root: Path, at: int, storage: str | None) -> int:
    """Search in a child that dies at step `at` (0: never); give its wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(KeyboardInterrupt):
            killer = Killer(at)
            if storage is not None:
                killer.in_database()
            run_search(space_of(root), root / "run", FakeTraining(), storage=storage)
            status = 0
        os._exit(status)
    return os.waitpid(child, 0)[1]


def space_of(root: Path) -> Space:
    """A search of four trials, a baseline and two finals, whose space is named after its folder."""
    asked = ("search.trials=4", "search.seeds=1", "search.finalists=1")
    return toy(root, TWO, f"name={root.name}", *asked, baseline="rival.yaml")


def left_behind(root: Path, storage: str | None) -> dict[str, object]:
    """All that decides: the table without its clock, the study, the winner, and the work done."""
    rows = [line.split(",") for line in (root / "run" / "leaderboard.csv").read_text().splitlines()]
    clock = rows[0].index("seconds")
    study = study_of(root, storage)
    return {
        "table": [row[:clock] + row[clock + 1 :] for row in rows],
        "study": [(t.state, t.params, t.values, t.constraints, t.user_attrs) for t in study.get_trials()],
        "front": sorted(path.name for path in (root / "run" / "front").iterdir()),
        "finals": sorted(path.name for path in (root / "run" / "finals").iterdir()),
        "best": (root / "run" / "best" / "best.ckpt").read_text(),
        "work": (root / "run" / "work.log").read_text().splitlines(),
    }


def study_of(root: Path, storage: str | None) -> optuna.Study:
    """The study of a search in its folder, or in a database."""
    if storage is None:
        journal = JournalFileBackend(str(root / "run" / "study.journal"))
        return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(journal))
    from search.store.database_study import storage_of

    name = f"{root.name}-{space_of(root).identity()}"
    return optuna.load_study(study_name=name, storage=storage_of(storage, name).storage)


def main(root: Path, stride: int, storage: str | None = None) -> None:
    """Kill at every `stride`-th step until a search gets through unharmed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    alone = root / "alone"
    alone.mkdir()
    assert search(alone, 0, storage) == 0
    expected = left_behind(alone, storage)
    for at in range(1, 10_000, stride):
        killed = root / f"killed{at}"
        killed.mkdir()
        first = search(killed, at, storage)
        if first == 0:
            print(at - stride, "steps")
            return
        assert first == signal.SIGKILL, f"step {at}: ended with {first}"
        again = search(killed, 0, storage)
        assert again == 0, f"step {at}: the second start ended with {again}"
        left = left_behind(killed, storage)
        shutil.rmtree(killed)
        # a run killed between two checkpoints repeats that piece and no other
        assert len(left["work"]) - len(expected["work"]) in (0, 1), f"step {at}: {left['work']}"
        left["work"] = list(dict.fromkeys(left["work"]))
        for what, value in expected.items():
            assert left[what] == value, f"step {at}: {what}\n{left[what]}\n{value}"
