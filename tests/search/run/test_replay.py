"""Points trained once, and searches that are replayed on them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from search.compare.rungs import milestones
from search.trainer import train

DOCS = Path(__file__).parents[3] / "docs"
sys.path.insert(0, str(DOCS))

from curves import best_table, live_table, read_curves  # noqa: E402
from features import gained, predicted, tables  # noqa: E402
from fronts import BEFORE, SAMPLERS, WAYS, in_order, read_searched, table  # noqa: E402
from recorded import feasible, full, space  # noqa: E402
from replay import ARMS, CURVES, LIVES, recorded, search  # noqa: E402


def test_every_feasible_point_was_recorded_at_every_milestone() -> None:
    part, table = space(), recorded()
    assert part.search is not None
    assert list(table.results) == list(feasible())
    train = part.example().spec.train
    assert train is not None
    stops = milestones(part.search.rungs, part.example().spec, {})
    # a run pauses after the whole step that reaches a rung
    whole = [-(-stop // train.tokens_per_step) * train.tokens_per_step for stop in stops]
    assert {tuple(each.tokens for each in seen) for seen in table.results.values()} == {tuple(whole)}


def test_training_gives_what_was_recorded(tmp_path: Path) -> None:
    identity, params = next(iter(feasible().items()))
    first = recorded().results[identity][0]
    spec = space().point(lambda parameter: params[parameter.name]).spec
    trained = train(spec, tmp_path / "run", first.tokens, lambda step: None)
    # another CPU may round differently
    assert trained.metrics["accuracy"] == pytest.approx(first.metrics["accuracy"], abs=0.02)


@pytest.mark.parametrize("arm", ["tpe", "random", "random, no rungs"])
def test_a_replayed_search_spends_its_budget_and_finds_what_was_recorded(arm: str) -> None:
    budget = 4
    curve = search(arm, 0, budget)
    spent, got = zip(*curve.steps, strict=True)
    assert list(got) == sorted(set(got))
    assert set(got) <= set(recorded().column(-1))
    assert spent[0] >= 1
    assert spent[-1] < budget + 1
    assert curve.trials == curve.ended == budget if "no rungs" in arm else curve.trials > curve.ended
    assert curve.at(spent[0]) == got[0]
    assert curve.at(budget + 1) == got[-1]


def test_a_seed_repeats_and_without_rungs_nobody_is_stopped() -> None:
    assert search("evolution", 3, 3) == search("evolution", 3, 3)
    assert search("random", 0, 2).steps[0] == search("random, no rungs", 0, 2).steps[0]


def test_searches_that_trained_found_what_their_replays_find() -> None:
    curves = {(curve.arm, curve.seed): curve for curve in read_curves(CURVES)}
    lives = read_curves(LIVES)
    assert len(lives) == 6
    for live in lives:
        again = curves[live.arm, live.seed]
        assert live.steps == tuple(step for step in again.steps if step[0] <= live.steps[-1][0])


def test_the_documentation_shows_the_curves_that_are_kept() -> None:
    page = (DOCS / "experiments.md").read_text(encoding="utf-8")
    curves = read_curves(CURVES)
    for line in [*best_table(curves, [*ARMS]), *live_table(read_curves(LIVES), curves)]:
        assert line in page
    assert f"{recorded().best():.4f}" in page
    assert f"{full() // 1000}k tokens" in page


def test_the_documentation_shows_what_the_rules_found_under_two_objectives() -> None:
    page = (DOCS / "experiments.md").read_text(encoding="utf-8")
    rows = read_searched()
    assert len(rows) == 20 * len(SAMPLERS) * len(WAYS)
    for line in table(rows):
        assert line in page


def test_the_documentation_shows_what_costs_as_features_bring() -> None:
    page = (DOCS / "experiments.md").read_text(encoding="utf-8")
    for line in tables():
        assert line in page


def test_the_regression_of_the_replays_predicts_what_is_linear_and_is_less_sure_far_away() -> None:
    rng = np.random.default_rng(0)
    points, others = rng.normal(size=(30, 3)), np.array([[0.0, 0, 0], [9, 9, 9]])
    mean, spread = predicted(points, points @ [1, -2, 3] + 5, others)
    assert mean == pytest.approx([5, 23], abs=0.3)
    assert 0 < spread[0] < spread[1]
    # a point in the corner adds all, one that is dominated a little for its mean
    known = np.array([[0.0, 1], [1, 0], [0.5, 0.5]])
    added = gained(known, np.array([[1.0, 1], [0.4, 0.4], [0.3, 0.3], [0.75, 0.75]]), 0)
    assert added == pytest.approx([0.75, 0, 0, 0.0625 + 0.25], abs=0.2)
    assert list(np.argsort(-added)) == [0, 3, 1, 2]


@pytest.mark.parametrize("rule", WAYS)
def test_a_rule_that_is_replayed_decides_who_goes_on(rule: str) -> None:
    volume, share = in_order(rule, 0, 0.25)
    assert 0 < volume < 1
    assert (share == 1) == (rule == "no rung")
    if rule not in ("no rung", BEFORE):
        assert share < in_order(BEFORE, 0, 0.25)[1]
