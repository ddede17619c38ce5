"""A SLURM whose programs do not answer holds up no command."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec

import pytest
from processes import wait_for

from search.errors import SearchError
from search.launch.agent import Call
from search.launch.launchers import slurm
from search.launch.launchers.slurm import SlurmOptions, SlurmTasks
from search.launch.patience import Question, within

needs_submitit = pytest.mark.skipif(
    find_spec("submitit") is None, reason="no submitit (the extra `submitit`)"
)
CALLS = [Call("127.0.0.1", 1, b"key", number) for number in (1, 2)]


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A function that makes programs of SLURM answer, and the others silent while the test runs."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_LIMIT", 0.3)
    silent = tmp_path / "silent"
    silent.touch()

    def answer(*names):
        for name in ("sbatch", "srun", "sacct", "scancel"):
            does = "" if name in names else f"while [ -e {silent} ]; do sleep 0.05; done\n"
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\n{does}echo Submitted batch job 7\n")
            program.chmod(0o755)
        return tmp_path

    yield answer
    silent.unlink()


@needs_submitit
def test_a_silent_sbatch_is_told(programs):
    tasks = SlurmTasks(SlurmOptions(), 0, 1, programs("srun"))
    with pytest.raises(SearchError, match="sbatch has not answered for 0 s"):
        tasks.start(CALLS)
    tasks.close()


@needs_submitit
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_silent_sacct_and_scancel_are_told_and_hold_up_nothing(programs):
    tasks = SlurmTasks(SlurmOptions(), 0, 1, programs("srun", "sbatch"))
    tasks.start(CALLS)
    assert tasks.trouble() == ""
    assert tasks.over() == {}
    wait_for(lambda: tasks.over() == {} and tasks.trouble() == "SLURM has not answered for 0 s", 60)
    with pytest.warns(UserWarning, match="by: scancel 7_0 7_1"):
        tasks.close()
    # not once more
    tasks.close()


def test_a_question_is_not_asked_again_before_it_is_answered():
    asked = []

    def ask():
        asked.append(0)
        time.sleep(0.3)
        return len(asked)

    question = Question(ask, 0)
    assert [question.latest(0.01), question.latest(0.01)] == [0, 0]
    assert question.silence > 0
    wait_for(lambda: question.latest(0.01) == 1, 60)
    assert (asked, question.silence) == ([0], 0.0)


def test_an_error_of_a_call_reaches_who_waits_for_it():
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        within(60, fail)
    with pytest.raises(ValueError, match="no"):
        Question(fail, 0).latest(60)
