"""Keys of random numbers: functions of the seed, the optimizer step and the row of its batch."""

import pytest
import torch
from runs import TOKENS, spec

from blocks.ir.graph import Graph
from composer.module.randomness import Randomness
from composer.training.folder.checkpoint import read_checkpoint
from composer.training.folder.metrics import read_metrics
from composer.training.run import run_training

NOISY = ("stages.0.start=noise", "stages.0.inject=concat")

GRAPH = Graph(["tokens", "targets", "key"])
IDS = torch.zeros(4, 3, dtype=torch.long)


def keys(randomness, tokens=IDS, training=True):
    (result,) = randomness.keys(GRAPH, tokens, training, {})
    return result


def test_micro_batches_of_a_step_draw_what_the_whole_batch_draws():
    whole, parts = Randomness(3), Randomness(3)
    for step in (0, 0, 5):
        whole.start()
        whole.at(step)
        expected = keys(whole, torch.zeros(8, 3))
        results = []
        for _ in range(2):
            parts.at(step)
            results.append(keys(parts))
        assert torch.equal(torch.cat(results), expected)
        parts.start()


def test_steps_rows_and_seeds_differ_and_evaluation_is_one_for_all():
    first = Randomness(0)
    seen = {*keys(first).tolist(), *keys(Randomness(1)).tolist()}
    first.passed()
    seen |= {*keys(first).tolist()}
    assert len(seen) == 12
    fixed = keys(first, training=False)
    assert len({*fixed.tolist()}) == 1
    assert torch.equal(keys(Randomness(0), training=False), fixed)


def test_a_model_that_draws_nothing_takes_no_key():
    assert Randomness(0).keys(Graph(["tokens", "targets"]), IDS, True, {}) == []


def weights(folder):
    return read_checkpoint(folder / "last.ckpt")["state_dict"]


def test_a_paused_run_goes_on_with_the_noise_it_would_have_drawn(tmp_path):
    settings = (*NOISY, "train.tokens=2048", "train.accumulate=2")
    whole = run_training(spec(*settings), tmp_path / "whole")
    run_training(spec(*settings), tmp_path / "run", until_tokens=3 * TOKENS)
    rest = run_training(spec(*settings), tmp_path / "run")
    assert (rest.metrics, rest.finished) == (whole.metrics, True)
    got, expected = weights(tmp_path / "run"), weights(tmp_path / "whole")
    assert all(torch.equal(got[name], weight) for name, weight in expected.items())


def test_two_ranks_draw_what_one_does(tmp_path, forked_ranks):
    losses = []
    for devices in (1, 2):
        settings = (*NOISY, "train.tokens=512", f"train.devices={devices}")
        run_training(spec(*settings), tmp_path / str(devices))
        losses.append([row["train_loss"] for row in read_metrics(tmp_path / str(devices) / "metrics.csv")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
