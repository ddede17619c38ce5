"""`composer search` as a process whose training sleeps: started, watched and ended by a test."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import local_command
import optuna
import pytest
from fake_training import SlowTraining, toy
from processes import Forked, wait_for
from worker import records

WAIT = 240
"""Seconds after which a test fails; generous, for a machine that does much else."""
TRIALS = ["--set", "search.trials=6", "--set", "search.keep=1"]


def opened(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.load_study(study_name="toy", storage=optuna.storages.JournalStorage(backend))


class Command:
    """`composer search` as a process in a group of its own, its output in files."""

    def __init__(self, root: Path, seconds: float, *arguments: str) -> None:
        toy(root)
        self.run = root / "run"
        # no run gets anywhere before all workers are there
        self.hold = root / "hold"
        self.hold.touch()
        # another command in this folder has files of its own
        number = len([*root.glob("out-*")])
        self.out, self.err = root / f"out-{number}", root / f"err-{number}"
        given = ["search", str(root / "space.yaml"), "--out", str(self.run), *TRIALS, *arguments]
        self.process = Forked(
            local_command.search,
            SlowTraining(seconds, self.hold),
            given,
            # what jobs of a cluster unpickle is in modules of tests
            environment={"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            files=(self.out, self.err),
        )
        self.seen: set[int] = set()

    def end(self) -> int:
        """Let runs go on to the end of all; return the exit code."""
        self.hold.unlink()
        code = self.process.wait(WAIT)
        wait_for(lambda: not any(map(is_running, self.seen)))
        assert not list((self.run / "workers").iterdir())
        return code

    def until_all_train(self, count: int = 2) -> list[int]:
        """Wait until workers train; return their process ids."""

        def all_train() -> bool:
            assert self.process.poll() is None, self.err.read_text()
            return sum(each["status"] == "running" for each in self.records()) >= count

        wait_for(all_train)
        pids = [int(each["worker"].split("-")[-2]) for each in self.records() if each["status"] == "running"]
        assert os.getpid() not in pids
        assert self.process.pid not in pids
        self.seen.update(pids)
        return pids

    def records(self) -> list[dict]:
        """What stands in the folder by now."""
        try:
            return records(self.run)
        except OSError:
            return self.records()

    def logs(self) -> dict[str, str]:
        """What workers printed."""
        return {path.name: path.read_text() for path in (self.run / "logs").glob("*")}

    def events(self) -> list[dict]:
        """The events printed, each a whole line."""
        text = self.out.read_text()
        assert text.endswith("\n")
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def begin(tmp_path) -> Iterator[Callable[..., Command]]:
    """Starts commands, and leaves no process behind."""
    begun: list[Command] = []

    def start(seconds: float, *arguments: str) -> Command:
        begun.append(Command(tmp_path, seconds, *arguments))
        return begun[-1]

    yield start
    for command in begun:
        for pid in [command.process.pid, *command.seen]:
            if is_running(pid):
                os.killpg(pid, signal.SIGKILL)
        command.process.communicate(10)


def agent_of(worker: int) -> int:
    """The process that started a worker."""
    return int(Path(f"/proc/{worker}/stat").read_text().rsplit(")", 1)[1].split()[1])


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
