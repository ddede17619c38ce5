"""Many workers on one search: nothing is trained twice, nothing is lost, whoever dies."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import kill_one_of_two
import optuna
import pytest
from fake_training import FakeTraining, board, toy
from optuna.samplers import RandomSampler
from worker import EIGHT, check, join, kills, records, start

from search.objectives import Goals
from search.propose.optuna_adapter import OUTCOME
from search.propose.questions import awaited
from search.run import study, worker
from search.run.study import run_search
from search.store.journal import Journal, open_study
from search.store.lease import Lease, this_worker

optuna.logging.set_verbosity(optuna.logging.WARNING)
RUNNING = optuna.trial.TrialState.RUNNING


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(worker, "POLL", 0.01)


def opened(folder: Path) -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.load_study(study_name="toy", storage=optuna.storages.JournalStorage(backend))


@pytest.mark.slow
def test_clocks_two_minutes_apart_change_nothing(tmp_path):
    join(start(tmp_path, 3, 0.05, *EIGHT, ahead=120.0))
    check(tmp_path, 8, opened(tmp_path / "run"), records(tmp_path / "run"))
    assert len(board(tmp_path / "run")) == 8


def test_a_worker_whose_proposal_another_one_completed_goes_on(tmp_path, monkeypatch):
    suggest, taken = study.suggest, []

    def late(trial, parameter):
        if not taken:
            journal = optuna.storages.JournalStorage(Journal(tmp_path / "run" / "study.journal"))
            other = optuna.load_study(study_name="toy", storage=journal)
            (open_one,) = other.get_trials(states=[RUNNING])
            other._storage.set_trial_user_attr(open_one._trial_id, OUTCOME, "invalid")
            other.tell(open_one.number, [0.0] * len(other.directions))
            taken.append(open_one.number)
        return suggest(trial, parameter)

    monkeypatch.setattr(study, "suggest", late)
    ended = run_search(toy(tmp_path, "search.trials=2"), tmp_path / "run", FakeTraining())
    assert len(ended.state.done()) == 2
    assert taken[0] not in {record.asked for record in ended.state.ledger}


class Stop(Exception):
    """Ends a worker that would wait."""


@pytest.mark.parametrize("overrides", [EIGHT, ["search.trials=20", "search.keep=1"]])
def test_four_workers_share_the_trials_and_train_none_twice(tmp_path, overrides):
    trials = 8 if overrides is EIGHT else 20
    join(start(tmp_path, 4, 0.05, *overrides))
    records_ = records(tmp_path / "run")
    check(tmp_path, trials, opened(tmp_path / "run"), records_)
    assert len({record["worker"] for record in records_}) == 4
    assert len(board(tmp_path / "run")) == trials
    assert sum(record["kind"] == "final" for record in records_) == (2 if overrides is EIGHT else 0)


def test_a_spec_that_another_worker_trains_is_put_off_and_told_as_a_repeat_with_its_last_values(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(study, "PATIENCE", 5)
    two_points = toy(tmp_path, *EIGHT, "search.trials=3", "stages.0.recur=1", "blocks.seq.kv_heads=1")
    second = FakeTraining()

    def stop(event, state):
        if event == "note":
            assert state.note == "waiting for 1 other worker to end, after 1 of 3 trials, 0 of 2 finals"
            raise Stop

    def meanwhile(spec, tokens):
        if tokens == 4096:
            with pytest.raises(Stop):
                run_search(two_points, tmp_path / "run", second, stop)
            (first,) = (record for record in records(tmp_path / "run") if record["status"] == "running")
            put_off = [
                awaited(t) for t in opened(tmp_path / "run").get_trials(states=(RUNNING,)) if awaited(t)
            ]
            assert put_off
            assert set(put_off) == {first["identity"]}

    ended = run_search(two_points, tmp_path / "run", FakeTraining(meanwhile))
    assert {folder for folder, *_ in second.calls} == {"trials/1"}
    assert "exhausted" in ended.reason
    assert f"--import {tmp_path / 'run'}" in ended.reason
    check(tmp_path, 2, opened(tmp_path / "run"), records(tmp_path / "run"))


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_what_a_dead_worker_left_is_gone_on_with_at_once_here_and_after_expiry_elsewhere(tmp_path, where):
    """`elsewhere` the lock says nothing: the lease holds until it is old."""
    space = toy(tmp_path, "search.trials=1", "search.keep=1")

    def dies(spec, tokens):
        if tokens == 8192:
            raise Stop

    with pytest.raises(Stop):
        run_search(space, tmp_path / "run", FakeTraining(dies))
    (left,) = records(tmp_path / "run")
    assert left["status"] == "running"
    lease = tmp_path / "run" / "workers" / f"{left['worker']}.lease"
    dead = replace(this_worker(), name=left["worker"], **({} if where == "here" else {"machine": "moon"}))
    lease.write_text(json.dumps(vars(dead)))
    notes, taken = [], []

    def watch(event, state):
        if event == "taken_over":
            taken.append(state.note)
        if event == "note":
            notes.append(state.note)
            os.utime(lease, (1, 1))

    again = FakeTraining()
    run_search(space, tmp_path / "run", again, watch)
    assert again.calls == [("trials/0", 4096, 8192)]
    assert taken == [f"trial 0: taken over from worker {left['worker']}, from 4.1k tokens on"]
    assert len(notes) == (where == "elsewhere")
    (done,) = records(tmp_path / "run")
    assert done["status"] == "finished"
    assert done["worker"] != left["worker"]
    check(tmp_path, 1, opened(tmp_path / "run"), [done])


def test_a_worker_taken_for_dead_loses_its_trial_to_its_heir_and_goes_on(tmp_path):
    space = toy(tmp_path, "search.trials=2", "search.keep=1")
    heir = FakeTraining()
    notes = []

    def buried(spec, tokens):
        path = tmp_path / "run" / "trials" / "0" / "tokens"
        if tokens == 8192 and path.exists() and path.read_text() == "4096" and not heir.calls:
            for lease in (tmp_path / "run" / "workers").iterdir():
                lease.unlink()
            run_search(toy(tmp_path, "search.trials=1", "search.keep=1"), tmp_path / "run", heir)

    late = FakeTraining(buried)
    run_search(
        space, tmp_path / "run", late, lambda e, state: notes.append(state.note) if e == "note" else None
    )
    assert heir.calls == [("trials/0", 4096, 8192)]
    assert any("trials/0: another worker has taken it over" in note for note in notes)
    check(tmp_path, 2, opened(tmp_path / "run"), records(tmp_path / "run"), killed=1)


def test_a_question_that_came_too_late_waits_for_more_trials(tmp_path, monkeypatch):
    """A killed worker's open question is no trial beyond the last."""
    space = toy(tmp_path, "search.trials=6", "search.keep=1")
    with monkeypatch.context() as patch:
        patch.setattr(worker.Ledger, "claim", lambda *arguments, **more: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            run_search(space, tmp_path / "run", FakeTraining())
    open_before = opened(tmp_path / "run").get_trials(states=(RUNNING,))
    assert len(open_before) == 1
    # others take the last trial while it is open
    path = tmp_path / "run" / "study.journal"
    journal = path.read_bytes()
    path.unlink()
    one = toy(tmp_path, "search.trials=1", "search.keep=1", "search.seed=5")
    run_search(one, tmp_path / "run", FakeTraining())
    path.write_bytes(journal)
    run_search(one, tmp_path / "run", FakeTraining())
    assert len(records(tmp_path / "run")) == 1
    ended = run_search(toy(tmp_path, "search.trials=2", "search.keep=1"), tmp_path / "run", FakeTraining())
    assert len(ended.state.done()) == 2
    assert not opened(tmp_path / "run").get_trials(states=(RUNNING,))


def test_a_lease_is_made_again_where_it_was_removed(tmp_path):
    lease = Lease(tmp_path, this_worker())
    lease.path.unlink()
    before = time.time() - 5
    assert lease.touch() > before
    assert lease.path.exists()
    lease.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tail", [b'{"op_code":5,"worker', b"\0\0\0\0", b"x" * 10_000])
def test_a_torn_tail_under_two_writers_is_mended_by_whoever_writes_next(tmp_path, tail):
    path = tmp_path / "study.journal"
    goals = Goals(toy(tmp_path).search.objectives)
    one, two = (open_study(path, "toy", goals, RandomSampler(0)) for _ in range(2))
    for n, writer in enumerate([one, two, one, two]):
        with path.open("ab") as file:
            file.write(tail)
        trial = writer.ask()
        trial.suggest_int("n", 0, 9)
        with path.open("ab") as file:
            file.write(tail)
        writer.tell(trial, n)
    for reader in (one, two, open_study(path, "toy", goals, RandomSampler(0))):
        assert [trial.value for trial in reader.get_trials()] == [0, 1, 2, 3]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_disk_that_fills_amid_a_record_loses_nothing(tmp_path, monkeypatch):
    run_search(toy(tmp_path, *EIGHT), tmp_path / "whole", FakeTraining())
    append, left = Journal.append, [12]

    def full(journal, logs):
        left[0] -= 1
        if left[0] == 0:
            with journal.path.open("ab") as file:
                file.write(b'{"op_code":4,"wor')
            raise OSError(28, "No space left on device", str(journal.path))
        append(journal, logs)

    monkeypatch.setattr(Journal, "append", full)
    with pytest.raises(
        study.SearchError, match=r"study\.journal: No space left on device\n.*run the same command to resume"
    ):
        run_search(toy(tmp_path, *EIGHT), tmp_path / "run", FakeTraining())
    run_search(toy(tmp_path, *EIGHT), tmp_path / "run", FakeTraining())
    check(tmp_path, 8, opened(tmp_path / "run"), records(tmp_path / "run"))
    params = [[trial.params for trial in opened(tmp_path / name).get_trials()] for name in ("whole", "run")]
    assert params[0] == params[1]


@pytest.mark.parametrize("stride", [29, pytest.param(1, marks=pytest.mark.slow)])
def test_one_of_two_workers_killed_at_any_moment_loses_no_trial(tmp_path, stride):
    """At each of its durable steps once, while the other worker goes on; that one ends the search alone."""
    assert kills(kill_one_of_two.main, tmp_path, stride) > 40
