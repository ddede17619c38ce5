"""What a search leaves: tables, `best/` and `front/`; what they hold, and that they stay whole."""

from __future__ import annotations

import csv
import os
import shutil
from pathlib import Path

import pytest
from fake_training import AGAIN, TWO, FakeTraining, Luck, board, toy

from composer.language.load import load
from search.progress.winners import put_front
from search.run.study import run_search


@pytest.fixture
def run(tmp_path) -> Path:
    space = toy(tmp_path, TWO, "search.trials=8", baseline="rival.yaml")
    run_search(space, tmp_path / "run", FakeTraining())
    return tmp_path / "run"


def test_the_front_holds_each_point_with_spec_weights_and_the_command_to_train_it(run):
    expected = {row["trial"]: row["folder"] for row in board(run) if row["front"] == "1"}
    assert len(expected) > 1
    assert {path.name for path in (run / "front").iterdir()} == expected.keys()
    for name, folder in expected.items():
        for file in ("spec.yaml", "best.ckpt"):
            assert (run / "front" / name / file).read_bytes() == (run / folder / file).read_bytes()
        command = (run / "front" / name / "train.txt").read_text()
        spec = run / "front" / name / "spec.yaml"
        assert command == f"composer train {spec} --set train.tokens={4 * 8192}\n"
        assert load(spec).train.tokens == 8192
    assert (run / "best" / "train.txt").read_text().startswith(f"composer train {run}/best/spec.yaml ")


def test_weights_are_links_and_what_is_appended_to_is_a_copy(run):
    name = next((run / "front").iterdir()).name
    (source,) = [
        path
        for path in run.glob("*/*/best.ckpt")
        if path.parent.parent.name in ("trials", "baselines") and path.parent.name == name
    ]
    assert source.samefile(run / "front" / name / "best.ckpt")
    assert not (source.parent / "spec.yaml").samefile(run / "front" / name / "spec.yaml")


def test_where_there_are_no_links_weights_are_copied(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    run_search(toy(tmp_path, TWO, "search.trials=2"), tmp_path / "run", FakeTraining())
    for path in (tmp_path / "run" / "front").iterdir():
        assert (path / "best.ckpt").stat().st_nlink == 1


def test_who_is_no_longer_on_the_front_leaves_it_and_leftovers_of_a_kill_too(run):
    from search.report.read import read

    front = read(run).state.front()
    kept, gone = front[0], front[-1]
    shutil.copytree(run / "front" / kept.name, run / "front" / f"{kept.name}.new")
    (run / "front" / kept.name / "from.txt").unlink()
    put_front(run, [kept])
    assert [path.name for path in (run / "front").iterdir()] == [kept.name]
    assert (run / "front" / kept.name / "from.txt").read_text() == f"{kept.folder}\n"
    assert gone is not kept


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_finals_leave_a_row_for_each_run_and_one_for_each_that_was_trained_again(tmp_path):
    state = run_search(toy(tmp_path, TWO, *AGAIN, baseline="rival.yaml"), tmp_path / "run", Luck()).state
    run = tmp_path / "run"
    result = rows(run / "finals.csv")
    assert len(result) == 15
    for row in result:
        train = load(run / row["folder"] / "spec.yaml").train
        assert (float(row["lr"]), int(row["seed"])) == (train.lr, train.seed)
        assert (train.lr, train.seed) == (3e-3 * float(row["lr_multiple"]), int(row["fresh_seed"]))
        assert row["status"] == "finished"
        assert row["flops_per_token"].isdecimal()
    standings = rows(run / "standings.csv")
    assert [(row["trial"], row["kind"]) for row in standings] == [
        (at.base.name, at.base.kind) for at in state.finals().standings()
    ]
    for row, at in zip(standings, state.finals().standings(), strict=True):
        assert (float(row["accuracy"]), float(row["accuracy_spread"])) == (at.mean[0], at.spread[0])
        assert (row["seeds"], row["lr_multiple"], row["left"]) == ("3", "2.0", "0")
    assert [row["trial"] for row in standings if row["winner"] == "1"] == [state.winner().name]


def test_best_is_the_best_run_of_the_winner_with_fresh_seeds_and_trains_on_at_its_rate(tmp_path):
    state = run_search(toy(tmp_path, TWO, *AGAIN), tmp_path / "run", Luck()).state
    best = tmp_path / "run" / "best"
    assert best.joinpath("from.txt").read_text() == f"{state.best_run().folder}\n"
    assert state.best_run().again["of"] == state.winner().key
    assert load(best / "spec.yaml").train.lr == 6e-3
    assert best.joinpath("train.txt").read_text().startswith(f"composer train {best}/spec.yaml ")


def test_without_finals_there_are_no_tables_of_them(run):
    assert not (run / "finals.csv").exists()
    assert not (run / "standings.csv").exists()
