"""`composer search --workers N`: processes that are started, watched and ended by one command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_training
import optuna
import pytest
from fake_training import toy
from worker import check, records

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
        self.run, self.out, self.err = root / "run", root / "out", root / "err"
        # no run gets anywhere before all workers are there
        self.hold = root / "hold"
        self.hold.touch()
        script = Path(fake_training.__file__).with_name("local_command.py")
        paths = {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, script, str(seconds), str(self.hold), str(root / "space.yaml")]
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [*command, "--out", str(self.run), *TRIALS, *arguments],
                stdout=out,
                stderr=err,
                env=os.environ | paths,
                start_new_session=True,
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
        wait_for(lambda: sum(each["status"] == "running" for each in self.records()) >= count)
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
        command.process.wait(10)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not what():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.02)


def test_two_workers_train_every_trial_once_and_tell_it_as_one_stream_of_events(tmp_path, begin):
    command = begin(0.05, "--workers", "2", "--json", "--set", f"search.baselines=[{tmp_path}/rival.yaml]")
    command.until_all_train()
    assert command.end() == 0
    found = command.records()
    check(tmp_path, 6, opened(command.run), found)
    events = command.events()
    names = [event["event"] for event in events]
    assert (names[0], names.count("begin")) == ("begin", 1)
    assert (names[-1], names.count("end")) == ("end", 1)
    ended = [event for event in events if event["event"] == "ended"]
    assert Counter(event["folder"] for event in ended) == Counter(each["folder"] for each in found)
    assert {event["worker"] for event in ended} == {each["worker"] for each in found}
    assert len({event["worker"] for event in events if event["event"] == "progress"}) == 2
    assert events[-1]["done"] == 6
    assert events[-1]["proposals"]["feasible"] == 6
    # workers that print nothing leave no logs
    assert command.logs() == {}


@pytest.mark.parametrize(
    "how",
    ["SIGINT to the group", "SIGINT", "SIGTERM", "SIGKILL", pytest.param("SIGHUP", marks=pytest.mark.slow)],
)
def test_a_command_that_is_stopped_leaves_no_worker_and_goes_on_when_given_again(tmp_path, begin, how):
    command = begin(0.05, "--workers", "2")
    command.until_all_train()
    number = signal.Signals[how.split()[0]]
    (os.killpg if "group" in how else os.kill)(command.process.pid, number)
    code = command.process.wait(WAIT)
    assert code == (-9 if how == "SIGKILL" else 130)
    if how != "SIGKILL":
        assert "run the same command again to continue" in command.err.read_text()
        assert command.logs() == {}
        # workers were gone before the command was
        assert not any(map(is_running, command.seen))
    wait_for(lambda: not any(map(is_running, command.seen)))
    left = [each for each in command.records() if each["status"] == "running"]
    assert left
    again = begin(0.01, "--workers", "2", "--json")
    again.until_all_train()
    assert again.end() == 0
    check(tmp_path, 6, opened(again.run), again.records(), killed=2)
    taken = [event for event in again.events() if event["event"] == "taken_over"]
    assert {event["left_by"] for event in taken} == {each["worker"] for each in left}
    assert {event["folder"] for event in taken} == {each["folder"] for each in left}


def test_a_worker_that_is_killed_is_told_and_the_other_takes_its_trial_over(tmp_path, begin):
    command = begin(0.05, "--workers", "2", "--json")
    one, _ = command.until_all_train()
    os.kill(one, signal.SIGKILL)
    assert command.end() == 0
    check(tmp_path, 6, opened(command.run), command.records(), killed=1)
    events = command.events()
    assert any("failed: killed by SIGKILL; 1 other goes on" in event.get("note", "") for event in events)
    assert "failed: killed by SIGKILL" in command.err.read_text()
    (taken,) = (event for event in events if event["event"] == "taken_over")
    assert f"-{one}-" in taken["left_by"]
    assert f"-{one}-" not in taken["worker"]


def test_when_all_workers_die_the_command_ends_with_their_reasons(begin):
    command = begin(0, "--workers", "2")
    for pid in command.until_all_train():
        os.kill(pid, signal.SIGKILL)
    assert command.process.wait(WAIT) == 1
    assert "killed by SIGKILL" in command.err.read_text()
    assert "2 workers" in command.err.read_text()
