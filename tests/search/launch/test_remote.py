"""Workers on other machines: their agents run in this process."""

from __future__ import annotations

import os
import socket

import pytest
from agents import NameVariables, Silent, Threads

from search.launch import remote
from search.launch.remote import RemoteCrew
from search.run.worker_process import Ended
from search.store.folder import SPACE


@pytest.fixture
def folder(tmp_path):
    (tmp_path / SPACE).touch()
    return tmp_path


def welcome(crew: RemoteCrew) -> None:
    """Wait until all agents are connected."""
    messages = crew.messages()
    while any(worker.connection is None for worker in crew.each):
        next(messages)


def test_a_worker_has_no_variables_of_slurm_and_its_agent_keeps_them(folder, monkeypatch):
    # srun says how many tasks there are; submitit needs the id of the job to have it queued again
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    job = NameVariables(folder, "SLURM_")
    with RemoteCrew(Threads(), job, 1, {}, "127.0.0.1", "waiting") as crew:
        results = [each[1] for each in crew.messages() if each is not None]
    assert results[-1] == Ended("done", "")
    assert os.environ["SLURM_JOB_ID"] == "7"
    assert not (folder / "logs").exists()


def test_a_worker_that_does_not_answer_is_given_up_however_often_it_is_killed(folder, monkeypatch):
    monkeypatch.setattr(remote, "_SILENCE", 0.5)
    with RemoteCrew(Silent(), NameVariables(folder, ""), 2, {}, "127.0.0.1", "waiting") as crew:
        welcome(crew)
        for turn, _ in enumerate(crew.messages()):
            crew.kill()
            assert turn < 50
        assert [worker.ended for worker in crew.each] == [Ended("stopped")] * 2


def test_both_ends_notice_within_a_minute_that_the_other_machine_is_gone(folder, monkeypatch):
    monkeypatch.setattr(remote, "_SILENCE", 0.0)
    with RemoteCrew(Silent(), NameVariables(folder, ""), 1, {}, "127.0.0.1", "waiting") as crew:
        welcome(crew)
        with socket.socket(fileno=os.dup(crew.each[0].connection.fileno())) as same:
            # keep-alive probes are not sent while something is not acknowledged
            assert 0 < same.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 60_000
        crew.kill()
