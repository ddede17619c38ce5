"""Kill one of two workers at each of its durable steps in turn; the other has to end with all trials.

`main` forks, so it belongs in a process of its own; it prints how many steps there are.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import optuna
from fake_training import FakeTraining, toy
from kill_everywhere import Killer
from optuna.storages.journal import JournalFileBackend
from worker import EIGHT, check, records

from search.run import worker
from search.run.study import run_search


class TearingKiller(Killer):
    """Dies amid writing a record, as a writer does, with the journal's lock in hand."""

    def append(self, backend, logs) -> None:
        if self.stage == 2 and self.left == 1:
            backend._lock_file.acquire()
            with backend.path.open("ab") as file:
                file.write(json.dumps(logs[0]).encode()[:-7])
            os.kill(os.getpid(), signal.SIGKILL)
        super().append(backend, logs)


def fork_worker(root: Path, at: int) -> int:
    """Fork a worker that dies at step `at` (0: never)."""
    child = os.fork()
    if child:
        return child
    try:
        TearingKiller(at)
        worker.POLL = 0.005
        fake = FakeTraining()

        def slower(*arguments):
            # so that most of the trials are the other's, who is to be killed amid them
            time.sleep(0 if at else 0.05)
            return fake(*arguments)

        run_search(toy_space(root), root / "run", slower)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def toy_space(root: Path):
    """Half of the space of eight points, whose files another worker may be reading."""
    from composer.language.space import load_space

    return load_space(root / "space.yaml", [*EIGHT, "search.trials=4"])


def main(root: Path, stride: int) -> None:
    """Kill at every `stride`-th step until a worker gets through unharmed."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    toy(root)
    killed = root / "run"
    for at in range(1, 10_000, stride):
        shutil.rmtree(killed, ignore_errors=True)
        children = [fork_worker(root, at), fork_worker(root, 0)]
        first, second = (os.waitpid(child, 0)[1] for child in children)
        assert second == 0, f"step {at}: the other ended with {second}"
        assert first in (0, signal.SIGKILL), f"step {at}: ended with {first}"
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(killed / "study.journal")))
        try:
            for lease in (killed / "workers").glob("*.tmp"):
                lease.unlink()  # of one killed while it came
            check(root, 4, optuna.load_study(study_name="toy", storage=storage), records(killed), killed=1)
        except AssertionError as error:
            raise AssertionError(f"step {at}: {error}") from error
        if first == 0:
            print(at - stride, "steps")
            return
