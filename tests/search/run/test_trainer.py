"""What a search makes of the ways in which training can fail."""

from __future__ import annotations

import pytest
from fake_training import FakeTraining, board, toy

from composer.data.base.errors import DataError
from composer.training import run
from composer.training.folder.errors import TrainingError
from search.errors import Crash, SearchError
from search.run.study import run_search
from search.trainer import Step, train


def diverged():
    raise TrainingError("the training loss became nan at step 3")


def out_of_memory():
    try:
        raise MemoryError
    except MemoryError:
        raise TrainingError("out of memory with 64 sequences") from None


def defect():
    raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def disk_full():
    try:
        raise OSError(28, "No space left on device")
    except OSError as error:
        raise TrainingError(f"no room left to write ({error.strerror})") from None


def bad_data():
    raise DataError("corpus.txt: no such file")


def failing(fault):
    def run_training(spec, out, *, until_tokens, report):
        report(run.Progress(1, 8, 1024, 0.7))
        fault()

    return run_training


@pytest.mark.parametrize("fault", [diverged, out_of_memory, defect])
def test_what_is_the_candidates_own_is_a_crash_and_the_search_goes_on(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(run, "run_training", failing(fault))
    fake, steps = FakeTraining(), []

    def first_fails(spec, folder, until, report):
        if folder.name == "0":
            return train(spec, folder, until, lambda step: (steps.append(step), report(step)))
        return fake(spec, folder, until, report)

    run_search(toy(tmp_path), tmp_path / "run", first_fails)
    rows = {row["trial"]: row for row in board(tmp_path / "run")}
    assert {name for name, row in rows.items() if row["status"] == "crashed"} == {"0"}
    with pytest.raises((TrainingError, RuntimeError)) as caught:
        fault()
    assert str(caught.value) in rows["0"]["reason"]
    assert steps == [Step(1024, 0.7)]
    # a defect leaves its traceback; what training says in words needs none
    assert (tmp_path / "run" / "trials" / "0" / "error.txt").exists() == (fault is defect)


@pytest.mark.parametrize(("fault", "error"), [(disk_full, SearchError), (bad_data, DataError)])
def test_what_would_stop_every_candidate_stops_the_search_and_blames_none(
    tmp_path, monkeypatch, fault, error
):
    monkeypatch.setattr(run, "run_training", failing(fault))
    with pytest.raises(error):
        run_search(toy(tmp_path), tmp_path / "run", train)
    ended = run_search(toy(tmp_path), tmp_path / "run", FakeTraining())
    assert {record.status for record in ended.state.done()} == {"finished", "stopped"}
    assert len(ended.state.done()) == 6


def test_a_loss_that_is_not_finite_at_a_pause_is_a_crash(tmp_path, monkeypatch):
    result = run.Result(tmp_path, {"loss": float("inf"), "accuracy": 0.5}, tokens=2048)
    monkeypatch.setattr(run, "run_training", lambda *arguments, **options: result)
    with pytest.raises(Crash, match="the loss is inf at 2048 tokens"):
        train(toy(tmp_path).example().spec, tmp_path, None, lambda step: None)
