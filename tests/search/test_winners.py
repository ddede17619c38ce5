"""`best/` and `front/`: what they hold, and that they stay whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from fake_training import TWO, FakeTraining, board, toy

from composer.spec.load import load
from search.study import run_search
from search.winners import put_front


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
