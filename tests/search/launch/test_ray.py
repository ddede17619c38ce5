"""`composer search --launcher ray` on a cluster of several nodes on this machine."""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec

import pytest
from command import WAIT, begin, is_running, opened, wait_for
from ray_cluster import RayCluster
from worker import check

__all__ = ["begin"]

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="no ray (the extra `ray`)"),
    pytest.mark.slow,
]


@pytest.fixture
def cluster():
    with RayCluster() as found:
        found.tell("add")
        found.tell("add")
        yield found


def notes(command) -> list[str]:
    return [event["note"] for event in command.events() if event["event"] == "note"]


def test_a_killed_node_loses_nothing_and_its_worker_starts_again_on_another(tmp_path, begin, cluster):
    command = begin(0.05, "--launcher", "ray", "--address", cluster.address, "--json")
    first = command.until_all_train()
    cluster.tell("kill")
    wait_for(lambda: not all(map(is_running, first)))
    cluster.tell("add")
    wait_for(lambda: "starting on" in command.out.read_text().partition("its task was lost")[2])
    assert command.end() == 0
    check(tmp_path, 6, opened(command.run), command.records(), killed=1)
    assert sum("its task was lost" in note for note in notes(command)) == 1


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
