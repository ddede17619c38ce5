"""The winner against baselines: results of one kind, each difference with its p-value."""

from __future__ import annotations

from statistics import fmean

import pytest
from fake_training import AGAIN, TWO, FakeTraining, Luck, toy

from search.progress.verdict import Verdicts
from search.run.study import run_search


def state(folder, *more, train=None, baseline="rival.yaml"):
    return run_search(toy(folder, TWO, *more, baseline=baseline), folder / "run", train or Luck()).state


def give(at, *values):
    for run, value in zip(at.runs, values, strict=True):
        run.seen[-1].values = (value, run.seen[-1].values[1])


@pytest.mark.parametrize(
    ("own", "rival", "verdict", "share"),
    [
        ((0.93, 0.92, 0.91), (0.9, 0.89, 0.88), "significant", 0.1),
        ((0.93, 0.92, 0.89), (0.9, 0.91, 0.88), "not significant", 0.4),
        ((0.9, 0.9, 0.9), (0.9, 0.9, 0.9), "not significant", 1.0),
    ],
)
def test_means_of_fresh_seeds_are_compared_by_a_permutation_test(tmp_path, own, rival, verdict, share):
    ended = state(tmp_path, *AGAIN, "search.finalists=1")
    trial, baseline = ended.finals().standings()
    give(trial, *own)
    give(baseline, *rival)
    accuracy, flops = Verdicts(ended).final()
    assert (accuracy.one.seeds, accuracy.other.seeds) == (own, rival)
    assert accuracy.better == pytest.approx(fmean(own) - fmean(rival))
    assert (accuracy.verdict, accuracy.p) == (verdict, pytest.approx(share))
    assert accuracy.word == ("better" if own != rival else "equal")
    assert accuracy.doubt == f"permutation test: p = {share:.2f}"
    assert (flops.verdict, flops.doubt, flops.one.seeds) == ("cost", "", ())
    costs = [at.base.costs["flops_per_token"] for at in (trial, baseline)]
    # less is better
    assert flops.better == costs[1] - costs[0]


def test_two_seeds_are_too_few_to_tell(tmp_path):
    ended = state(tmp_path, "search.seeds=2", "search.finalists=1")
    trial, baseline = ended.finals().standings()
    give(trial, 0.9, 0.9)
    give(baseline, 0.1, 0.1)
    accuracy, _ = Verdicts(ended).final()
    assert (accuracy.verdict, accuracy.p) == ("too few seeds", None)
    assert "it takes three each" in accuracy.doubt


def test_without_fresh_seeds_the_doubt_of_one_seed_is_told(tmp_path):
    accuracy, _ = Verdicts(state(tmp_path, train=FakeTraining())).final()
    assert (accuracy.verdict, accuracy.one.seeds) == ("one seed each", ())
    assert accuracy.doubt == "one seed each, so no p-value"


def test_a_sweep_alone_compares_each_at_its_best_rate(tmp_path):
    ended = state(tmp_path, "search.lr_sweep=[2]", "search.finalists=1")
    trial, baseline = ended.finals().standings()
    accuracy, _ = Verdicts(ended).final()
    assert (accuracy.one.value, accuracy.other.value) == (trial.sweep[2][0], baseline.sweep[2][0])
    assert accuracy.one.lr == accuracy.other.lr == 2
    assert accuracy.verdict == "one seed each"
    assert "at lr x2" in accuracy.one.text


def test_a_trial_without_finals_is_held_against_a_baseline_as_the_search_measured_both(tmp_path):
    ended = state(tmp_path, *AGAIN, "search.finalists=1")
    known = Verdicts(ended)
    other = next(
        each
        for each in ended.ledger.trials()
        if each.status == "finished" and each.key not in known.standings
    )
    accuracy, _ = known.against(other, known.rival)
    assert (accuracy.one.value, accuracy.other.value) == (other.values[0], known.rival.values[0])
    assert accuracy.verdict == "one seed each"


def test_the_best_baseline_is_so_by_its_mean(tmp_path):
    toy(tmp_path)
    second = (tmp_path / "rival.yaml").read_text().replace("hidden: 64", "hidden: 48")
    (tmp_path / "second.yaml").write_text(second.replace("name: rival", "name: second"))
    ended = state(tmp_path, "search.seeds=1", baseline="rival.yaml, second.yaml")
    *_, one, other = ended.finals().standings()
    for better, worse in ((one, other), (other, one)):
        give(better, 0.9)
        give(worse, 0.1)
        better.base.seen[-1].values = (0.0, better.base.values[1])
        assert Verdicts(ended).rival is better.base


def test_training_of_another_length_is_told(tmp_path):
    verdicts_ = Verdicts(state(tmp_path, "train.tokens=16Ki", train=FakeTraining()))
    assert verdicts_.uneven == "the winner was trained for 16.4k tokens, rival for 8.19k"
    verdicts_.rival.seen[-1].tokens = 16384
    assert verdicts_.uneven == ""


def test_without_baseline_or_winner_there_is_nothing_to_compare(tmp_path):
    verdicts_ = Verdicts(state(tmp_path, train=FakeTraining(), baseline=""))
    assert (verdicts_.rival, verdicts_.final()) == (None, [])
