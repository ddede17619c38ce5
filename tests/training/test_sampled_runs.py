"""Runs that train with other numbers of steps than they evaluate with."""

import pytest
import torch
from runs import TOKENS, spec

from composer.language.schema.steps import drawn_steps
from composer.training.folder.checkpoint import read_checkpoint
from composer.training.folder.errors import TrainingError
from composer.training.folder.metrics import read_metrics
from composer.training.run import run_training

SAMPLED = "stages.0.recur={steps: 2, train: {poisson_lognormal: {mean: 2.5, max: 5}}}"


def test_a_paused_run_goes_on_with_the_numbers_it_would_have_drawn(tmp_path):
    settings = (SAMPLED, "train.tokens=2048", "train.accumulate=2")
    whole = run_training(spec(*settings), tmp_path / "whole")
    run_training(spec(*settings), tmp_path / "run", until_tokens=3 * TOKENS)
    rest = run_training(spec(*settings), tmp_path / "run")
    assert (rest.metrics, rest.finished) == (whole.metrics, True)
    ends = [read_checkpoint(tmp_path / name / "last.ckpt")["state_dict"] for name in ("run", "whole")]
    assert all(torch.equal(ends[0][name], weight) for name, weight in ends[1].items())
    other = run_training(spec(*settings, "stages.0.recur=2"), tmp_path / "other")
    assert other.metrics != whole.metrics


def test_two_ranks_draw_the_same_number(tmp_path, forked_ranks):
    seed = next(n for n in range(20) if drawn_steps(spec(SAMPLED, f"train.seed={n}"), 0, 0)["stages.0"] == 4)

    def first(name, *settings):
        settings = (SAMPLED, f"train.seed={seed}", "train.tokens=256", "train.clip=0", *settings)
        run_training(spec(*settings), tmp_path / name)
        states = read_checkpoint(tmp_path / name / "last.ckpt")["optimizer_states"][0]["state"]
        return [states[n]["exp_avg"] for n in states], read_metrics(tmp_path / name / "metrics.csv")[0][
            "train_loss"
        ]

    wanted, loss = first("one")
    result, other = first("two", "train.devices=2")
    assert other == pytest.approx(loss, rel=1e-6)
    assert all(torch.allclose(*pair, atol=1e-7) for pair in zip(result, wanted, strict=True))


def test_more_tokens_may_not_move_the_beginning_of_late_steps(tmp_path):
    late = "stages.0.recur={steps: 2, train: {at: 0.25}}"
    run_training(spec(late, "train.tokens=2048"), tmp_path)
    with pytest.raises(TrainingError, match=r"stages\.0 changes at optimizer step 2 .* at 4;"):
        run_training(spec(late, "train.tokens=4096"), tmp_path)
