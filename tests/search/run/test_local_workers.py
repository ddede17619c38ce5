"""`composer search --workers N`: processes that are started, watched and ended by one command."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest
from command import WAIT, begin, is_running, opened, wait_for
from worker import check

__all__ = ["begin"]


def test_two_workers_train_every_trial_once_and_tell_it_as_one_stream_of_events(tmp_path, begin):
    command = begin(0.05, "--workers", "2", "--json", "--set", f"search.baselines=[{tmp_path}/rival.yaml]")
    command.until_all_train()
    assert command.end() == 0
    records_ = command.records()
    check(tmp_path, 6, opened(command.run), records_)
    events = command.events()
    names = [event["event"] for event in events]
    assert (names[0], names.count("begin")) == ("begin", 1)
    assert (names[-1], names.count("end")) == ("end", 1)
    ended = [event for event in events if event["event"] == "ended"]
    assert Counter(event["folder"] for event in ended) == Counter(each["folder"] for each in records_)
    assert {event["worker"] for event in ended} == {each["worker"] for each in records_}
    assert len({event["worker"] for event in events if event["event"] == "progress"}) == 2
    assert events[-1]["done"] == 6
    assert events[-1]["proposals"]["feasible"] == 6
    # workers that print nothing leave no logs
    assert command.logs() == {}


@pytest.mark.parametrize(
    "how",
    [
        "SIGINT to the group",
        "SIGTERM",
        "SIGKILL",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("SIGINT", "SIGHUP")),
    ],
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
