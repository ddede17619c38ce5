"""What a row of metrics says is what was done."""

import csv

from runs import TOKENS, spec

from composer.module.optimization import schedule as rates
from composer.training.folder.metrics import read_metrics
from composer.training.run import run_training


def test_the_rate_in_a_row_is_the_one_the_optimizer_stepped_with(tmp_path, monkeypatch):
    monkeypatch.setattr(rates, "schedule", lambda train, step: 1 / (step + 1))
    run_training(spec("train.tokens=1536", "train.lr=0.01"), tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 3
    assert all(float(row["lr"]) == 0.01 * (1 / int(row["step"])) for row in rows)


def test_metrics_of_an_older_run_are_read_and_gone_on_with(whole, tmp_path):
    run_training(spec(), tmp_path / "run", until_tokens=10 * TOKENS)
    path = tmp_path / "run" / "metrics.csv"
    old = path.read_text().replace("held_out_", "")
    assert "loss,accuracy" in old.splitlines()[0]
    path.write_text(old)
    assert read_metrics(path) == read_metrics(whole.folder / "metrics.csv")[:4]
    run_training(spec(), tmp_path / "run")
    assert path.read_bytes() == (whole.folder / "metrics.csv").read_bytes()
