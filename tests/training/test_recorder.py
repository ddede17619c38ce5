"""What a row of metrics says is what was done."""

import csv

from runs import spec

from composer.module import optimizer
from composer.training.run import run_training


def test_the_rate_in_a_row_is_the_one_the_optimizer_stepped_with(tmp_path, monkeypatch):
    monkeypatch.setattr(optimizer, "schedule", lambda train, step: 1 / (step + 1))
    run_training(spec("train.tokens=1536", "train.lr=0.01"), tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 3
    assert all(float(row["lr"]) == 0.01 * (1 / int(row["step"])) for row in rows)
