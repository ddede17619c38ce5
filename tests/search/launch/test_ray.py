"""`composer search --launcher ray` on a cluster of several nodes on this machine."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec

import pytest
from accidents import check_database_away, check_full_disk
from command import WAIT, agent_of, begin, is_running, opened, wait_for
from noted_training import check_two_devices
from postgresql import missing
from ray_cluster import RayCluster
from worker import check

__all__ = ["begin"]

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="no ray (the extra `ray`)"),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def cluster():
    with RayCluster() as result:
        result.tell("add")
        result.tell("add")
        yield result


def notes(command) -> list[str]:
    return [event["note"] for event in command.events() if event["event"] == "note"]


def starts_again(command, worker: int) -> bool:
    _, _, later = command.out.read_text().partition(f"worker {worker}: its task was lost")
    return f"worker {worker}: starting on" in later


def test_a_killed_node_loses_nothing_and_its_worker_starts_again_on_another(tmp_path, begin, cluster):
    command = begin(0.05, "--launcher", "ray", "--address", cluster.address, "--json")
    first = command.until_all_train()
    cluster.tell("kill")
    wait_for(lambda: not all(map(is_running, first)))
    cluster.tell("add")
    wait_for(lambda: any(starts_again(command, worker) for worker in (1, 2)))
    assert command.end() == 0
    check(tmp_path, 6, opened(command.run), command.records(), killed=1)
    assert sum("its task was lost" in note for note in notes(command)) == 1


def test_a_killed_worker_and_a_killed_task_start_again_and_lose_nothing(tmp_path, begin, cluster):
    command = begin(0.05, "--launcher", "ray", "--address", cluster.address, "--json")
    first, second = command.until_all_train()
    os.kill(first, signal.SIGKILL)
    os.kill(agent_of(second), signal.SIGKILL)
    wait_for(lambda: not is_running(first) and not is_running(second))
    wait_for(lambda: all(starts_again(command, worker) for worker in (1, 2)))
    assert command.end() == 0
    check(tmp_path, 6, opened(command.run), command.records(), killed=2)
    assert sum("its task was lost" in note for note in notes(command)) == 2


def test_two_commands_at_once_share_the_trials_and_train_none_twice(tmp_path, begin, cluster):
    ours = ("--launcher", "ray", "--address", cluster.address, "--workers", "1")
    one = begin(0.2, *ours)
    one.until_all_train(1)
    two = begin(0.2, *ours)
    wait_for(lambda: len(list((two.run / "workers").glob("*.lease"))) == 4)
    two.hold.unlink()
    assert [command.process.wait(WAIT) for command in (one, two)] == [0, 0]
    check(tmp_path, 6, opened(one.run), one.records())


@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_a_command_that_is_stopped_leaves_no_worker_and_goes_on_when_given_again(
    tmp_path, begin, cluster, how
):
    command = begin(0.05, "--launcher", "ray", "--address", cluster.address)
    command.until_all_train()
    os.kill(command.process.pid, signal.Signals[how])
    assert command.process.wait(WAIT) == (-9 if how == "SIGKILL" else 130)
    wait_for(lambda: not any(map(is_running, command.seen)))
    assert any(record["status"] == "running" for record in command.records())
    again = begin(0.01, "--launcher", "ray", "--address", cluster.address, "--workers", "2")
    again.until_all_train()
    assert again.end() == 0
    check(tmp_path, 6, opened(again.run), again.records(), killed=2)


def test_a_task_trains_a_trial_on_two_devices(tmp_path, cluster):
    check_two_devices(
        tmp_path, "--launcher", "ray", "--address", cluster.address, "--workers", "1", "--launch", "cpus=1"
    )


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_database_that_is_away_for_a_while_is_waited_for_by_all_tasks(tmp_path, begin, cluster):
    check_database_away(tmp_path, begin, "--launcher", "ray", "--address", cluster.address)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, begin, cluster):
    check_full_disk(tmp_path, begin, "--launcher", "ray", "--address", cluster.address)
