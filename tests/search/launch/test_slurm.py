"""`composer search --launcher slurm` by submitit's local executor."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec

import pytest
from accidents import check_database_away, check_full_disk
from command import WAIT, agent_of, begin, is_running, opened, wait_for
from noted_training import check_two_devices
from postgresql import missing
from worker import check

__all__ = ["begin"]

pytestmark = [
    pytest.mark.skipif(find_spec("submitit") is None, reason="no submitit (the extra `submitit`)"),
    pytest.mark.slow,
]
JOBS = ("--launcher", "slurm", "--launch", "cluster=local", "--launch", "host=127.0.0.1", "--workers", "2")


def test_a_preempted_job_saves_its_run_and_is_queued_again(tmp_path, begin):
    command = begin(0.05, *JOBS, "--json")
    first, _ = command.until_all_train()
    # as SLURM warns a job that it preempts
    os.kill(agent_of(first), signal.SIGUSR2)
    wait_for(lambda: not is_running(first))
    wait_for(lambda: "starting on" in command.out.read_text().partition("its task was lost")[2])
    assert command.end() == 0
    check(tmp_path, 6, opened(command.run), command.records(), killed=1)
    notes = [event["note"] for event in command.events() if event["event"] == "note"]
    assert sum("its task was lost" in note for note in notes) == 1
    assert not list((command.run / "logs").glob("*.held"))


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_a_command_that_is_stopped_leaves_no_worker_and_goes_on_when_given_again(tmp_path, begin, how):
    command = begin(0.05, *JOBS)
    command.until_all_train()
    agents = list(map(agent_of, command.seen))
    os.kill(command.process.pid, signal.Signals[how])
    assert command.process.wait(WAIT) == (-9 if how == "SIGKILL" else 130)
    wait_for(lambda: not any(map(is_running, [*command.seen, *agents])))
    again = begin(0.01, *JOBS)
    again.until_all_train()
    assert again.end() == 0
    check(tmp_path, 6, opened(again.run), again.records(), killed=2)


def test_two_commands_at_once_share_the_trials_and_train_none_twice(tmp_path, begin):
    one = begin(0.2, *JOBS)
    one.until_all_train()
    two = begin(0.2, *JOBS)
    wait_for(lambda: len(list((two.run / "workers").glob("*.lease"))) == 6)
    two.hold.unlink()
    assert [command.process.wait(WAIT) for command in (one, two)] == [0, 0]
    check(tmp_path, 6, opened(one.run), one.records())


@pytest.mark.parametrize("who", ["job", "worker"])
def test_a_killed_job_or_worker_is_told_and_the_other_goes_on(tmp_path, begin, who):
    command = begin(0.05, *JOBS, "--json")
    first, _ = command.until_all_train()
    os.kill(first if who == "worker" else agent_of(first), signal.SIGKILL)
    wait_for(lambda: not is_running(first))
    assert command.end() == 0
    check(tmp_path, 6, opened(command.run), command.records(), killed=1)
    assert "its task was lost" in command.out.read_text()


def test_a_job_trains_a_trial_on_two_devices(tmp_path):
    check_two_devices(tmp_path, *JOBS[:-1], "1")


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_database_that_is_away_for_a_while_is_waited_for_by_all_jobs(tmp_path, begin):
    check_database_away(tmp_path, begin, *JOBS)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, begin):
    check_full_disk(tmp_path, begin, *JOBS)
