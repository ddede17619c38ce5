"""Runs, checkpoints and searches made by earlier versions load, score alike and go on."""

import csv
import json
import tarfile
from pathlib import Path

import pytest

import composer
from composer.cli.main import main
from composer.language.load import loads
from composer.language.schema.identity import arch_hash, run_hash

FIXTURES = Path(__file__).parent / "fixtures" / "v0"
HASHES = {
    "finished": ("41cd8a2c0ac3", "c213a5335504"),
    "paused": ("41cd8a2c0ac3", "714a791a4b45"),
    "search/trials/0": ("d33421ad79a2", "f9a2502fd39e"),
}


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(FIXTURES / f"{name.split('/')[0]}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name


def rows(run: Path) -> list[dict[str, str]]:
    return [*csv.DictReader((run / "metrics.csv").read_text("utf-8").splitlines())]


@pytest.mark.parametrize("name", HASHES)
def test_hashes_are_those_of_earlier_versions(tmp_path, name):
    spec = composer.load(unpacked(name, tmp_path) / "spec.yaml")
    assert (arch_hash(spec), run_hash(spec)) == HASHES[name]


def test_hashes_of_all_kinds_of_specs_are_those_of_earlier_versions():
    for line in (FIXTURES / "hashes.jsonl").read_text("utf-8").splitlines():
        old = json.loads(line)
        spec = loads(json.dumps(old["spec"]))
        assert (arch_hash(spec), run_hash(spec)) == (old["arch"], old["run"]), line


def test_a_finished_run_scores_as_it_did(tmp_path, capsys):
    from composer.training.score import read, score

    run = unpacked("finished", tmp_path)
    assert not composer.load_run(run).training
    scores = score(read(run)).scores
    best = min(float(row["held_out_loss"]) for row in rows(run) if row["held_out_loss"])
    assert scores["loss"] == pytest.approx(best, rel=1e-4)


def test_a_paused_run_goes_on_to_its_end(tmp_path, capsys):
    run = unpacked("paused", tmp_path)
    before = rows(run)
    assert main(["train", str(run / "spec.yaml"), "--out", str(run)]) == 0
    after = rows(run)
    assert after[: len(before) - 1] == before[:-1]
    assert after[-1]["step"] == "250"
    assert float(after[-1]["held_out_loss"]) < float(before[0]["train_loss"]) / 2


def test_a_search_goes_on_and_is_reported(tmp_path, capsys):
    folder = unpacked("search", tmp_path)
    old = {file.name: file.read_text("utf-8") for file in sorted((folder / "records").glob("trial-*"))}
    space = str(tmp_path / "space.yaml")
    assert main(["search", space, "--out", str(folder), "--trials", "4", "--workers", "1"]) == 0
    new = {file.name: file.read_text("utf-8") for file in sorted((folder / "records").glob("trial-*"))}
    assert len(new) == 4
    assert {name: new[name] for name in old} == old
    assert main(["report", str(folder)]) == 0
    assert "old-space" in (folder / "report.html").read_text("utf-8")
