"""Rows of a study know their data by content, wherever it lies."""

import json
import shutil
from pathlib import Path

import pytest
from fake_training import FakeTraining
from studies import toy_study

from composer.language.description.show import resolved_yaml
from search.study.command import note_stale
from search.study.plan import Plan
from search.study.rows import read_rows
from search.study.run import run_study

OLD = Path(__file__).parents[2] / "fixtures" / "v0" / "study.jsonl"
TEXT = "A short text, over and over. " * 100


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text(TEXT)
    return tmp_path


def study_of(path, glob=""):
    data = f'{{task: text, path: "{path}", length: 32{glob}}}'
    return toy_study(Path(), f"set=['train.data={data}', model.vocab=256]", "rates=[1e-3]")


def calls(study, folder, fault=None):
    train = FakeTraining(*([fault] if fault else []))
    run_study(study, folder, Path("rows.jsonl"), train)
    return train.calls


def test_a_study_goes_on_where_its_data_were_moved(here):
    folder = here / "out"
    assert len(calls(study_of("corpus.txt"), folder)) == 12
    rows = Path("rows.jsonl").read_text()
    (here / "else/texts").mkdir(parents=True)
    shutil.move("corpus.txt", here / "else/texts/other-name.txt")
    for moved in (study_of(here / "else/texts/other-name.txt"), study_of("else", ', glob: "**/*.txt"')):
        assert calls(moved, folder) == []
    assert Path("rows.jsonl").read_text() == rows


def test_a_run_that_was_stopped_goes_on_where_its_data_were_moved(here):
    def stop(spec, tokens):
        if tokens == 8192:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calls(study_of("corpus.txt"), here / "out", stop)
    shutil.move("corpus.txt", "moved.txt")
    (_, start, end), *_ = calls(study_of("moved.txt"), here / "out")
    assert (start, end) == (4096, 8192)


def test_other_data_at_the_same_place_are_other_data(here, capsys):
    folder, study = here / "out", study_of("corpus.txt")
    calls(study, folder)
    Path("corpus.txt").write_text(TEXT.upper())
    assert len(calls(study_of("corpus.txt"), folder)) == 12
    assert len(read_rows(Path("rows.jsonl"))) == 24
    note_stale(study_of("corpus.txt"), Path("rows.jsonl"))
    assert capsys.readouterr().err.count("6 rows are not used") == 2


def test_rows_that_knew_their_data_by_path_are_used_and_then_move_too(here):
    folder = here / "out"
    shutil.copy(OLD, Path("rows.jsonl"))
    old = read_rows(OLD)
    plan = Plan(study_of("corpus.txt"))
    assert not {row.cell for row in old} & plan.cells()
    assert plan.results(old).done() == 6
    assert calls(study_of("corpus.txt"), folder) == []
    new = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [row | {"spec": ""} for row in new] == [
        json.loads(line) | {"spec": ""} for line in OLD.read_text().splitlines()
    ]
    shutil.move("corpus.txt", "moved.txt")
    assert calls(study_of("moved.txt"), folder) == []
    # beside rows of this version they count once
    both = [*new, *(json.loads(line) for line in OLD.read_text().splitlines())]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in both))
    shutil.move("moved.txt", "corpus.txt")
    assert len(Plan(study_of("corpus.txt")).results(read_rows(Path("rows.jsonl"))).used()) == 12


def test_a_run_folder_that_knew_its_data_by_path_goes_on(here):
    study, folder = study_of("corpus.txt"), here / "out"
    arm, plan = study.arms[0], Plan(study)
    new, old = plan.marks(arm)
    run = folder / f"runs/{arm.name}-lr0.001-seed0-{old}"
    run.mkdir(parents=True)
    (folder / "space.txt").write_text("study: toy\n")
    (run / "tokens").write_text("4096")
    (run / "spec.yaml").write_text(resolved_yaml(plan.spec(arm, 1e-3, 0, 4096)))
    (name, start, end), *_ = calls(study, folder)
    assert (name, start, end) == (f"runs/{run.name}", 4096, 8192)
    assert new not in name
