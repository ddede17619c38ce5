"""A search whose trials train on two processes each, with weights in parts."""

from __future__ import annotations

import csv

import pytest
import torch
from fake_training import toy
from torch.distributed.fsdp import FSDPModule

from composer import load, load_run
from composer.training import recorder
from search.run.study import run_search

SMALL = (
    "model.width={choice: [8, 16]}",
    "train.tokens=1Ki",
    "train.batch_tokens=256",
    "train.eval.tokens=256",
    "search.rungs=[512]",
    "search.trials=1",
)


@pytest.mark.slow
def test_a_trial_trains_on_two_processes_from_rung_to_end_and_leaves_whole_weights(tmp_path, monkeypatch):
    ranks = []
    real = recorder.Recorder.on_train_start

    def look(self, trainer, module):
        ranks.append((trainer.world_size, any(isinstance(part, FSDPModule) for part in module.modules())))
        real(self, trainer, module)

    monkeypatch.setattr(recorder.Recorder, "on_train_start", look)
    space = toy(tmp_path, *SMALL, "train.strategy=fsdp", "train.devices=2")
    ended = run_search(space, tmp_path / "run")
    (trial,) = ended.state.done()
    assert (trial.status, trial.reason, [seen.tokens for seen in trial.seen]) == ("finished", "", [512, 1024])
    # once to the rung and once from there
    assert ranks == [(2, True)] * 2
    folder = tmp_path / "run" / "best"
    train = load(folder / "spec.yaml").train
    assert (train.strategy, train.devices) == ("fsdp", 2)
    weights = list(load_run(folder).parameters())
    assert sum(weight.numel() for weight in weights) == trial.costs["params"]
    assert all(torch.isfinite(weight).all() for weight in weights)
    with (folder / "metrics.csv").open() as file:
        assert int(float(list(csv.DictReader(file))[-1]["tokens"])) == 1024
