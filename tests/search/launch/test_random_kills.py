"""Workers and the command that started them are killed at random moments, again and again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import optuna
import pytest
from accidents import check_full_disk
from command import WAIT, Command, begin, is_running, opened, wait_for
from database_checks import rows
from postgresql import Server, missing
from worker import check

from composer.language.space import load_space
from search.store.database_study import storage_of

__all__ = ["begin"]

pytestmark = pytest.mark.slow
KILLS = 20
"""How often a process is killed in each storage."""
WORKERS = ("--workers", "2")
Begin = Callable[[], Command]


def alive(command: Command) -> list[int]:
    """Return the process ids of the workers that hold a lease."""
    leases = (command.run / "workers").glob("*.lease")
    return [pid for path in leases if is_running(pid := int(path.stem.split("-")[-2]))]


def trained(command: Command) -> int:
    """Return how far all runs are, by the size of the log of what was trained."""
    path = command.run / "work.log"
    return path.stat().st_size if path.exists() else 0


def kill_one(command: Command, rng: random.Random) -> None:
    """Kill the command or one of its workers at a random moment, unless it ends before."""
    before = trained(command)
    wait_for(lambda: bool(alive(command)) or command.process.poll() is not None)
    # some are killed while they begin
    if rng.random() < 0.7:
        wait_for(lambda: trained(command) > before or command.process.poll() is not None)
    time.sleep(rng.uniform(0, 2))
    if command.process.poll() is None:
        victim = rng.choice([command.process.pid, *alive(command)])
        os.kill(victim, signal.SIGKILL)
        if victim == command.process.pid:
            command.process.wait(WAIT)
            wait_for(lambda: not alive(command))


def kill_again_and_again(begun: Begin, rng: random.Random) -> None:
    """Kill a process at random moments; begin again where the command is gone."""
    command = begun()
    for _ in range(KILLS):
        if command.process.poll() is not None:
            command = begun()
        kill_one(command, rng)
    if command.process.poll() is None:
        os.kill(command.process.pid, signal.SIGINT)
        command.process.wait(WAIT)


@pytest.mark.parametrize(
    "kept", ["folder", pytest.param("database", marks=pytest.mark.skipif(bool(missing()), reason=missing()))]
)
def test_twenty_kills_at_random_moments_lose_nothing_and_train_nothing_twice(tmp_path, begin, kept):
    server = Server() if kept == "database" else None
    try:
        url = server.url("kills") if server else ""
        storage = ("--storage", url) if url else ()

        def begun(trials: int = 1000) -> Command:
            command = begin(0.05, *WORKERS, "--set", f"search.trials={trials}", *storage)
            command.hold.unlink()
            return command

        kill_again_and_again(begun, random.Random(0))
        trials = 4 + len(list((tmp_path / "run" / "trials").iterdir()))
        command = begun(trials)
        assert command.process.wait(WAIT) == 0, command.err.read_text()
        if not url:
            check(tmp_path, trials, opened(command.run), command.records(), killed=KILLS)
            return
        space = load_space(tmp_path / "space.yaml", [f"search.trials={trials}", "search.keep=1"])
        name = f"{space.name}-{space.identity()}"
        opened_study = storage_of(url, name)
        study = optuna.load_study(study_name=name, storage=opened_study.storage)
        check(tmp_path, trials, study, rows(url), killed=KILLS)
        opened_study.close()
    finally:
        if server:
            server.remove()


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, begin):
    check_full_disk(tmp_path, begin, *WORKERS)
