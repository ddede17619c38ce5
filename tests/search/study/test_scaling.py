"""The fit of the scaling law finds the constants that losses were made with."""

import random
from itertools import product
from pathlib import Path

import pytest
from studies import STUDY, toy_study

from composer.language.load import load
from search.study.plan import Plan
from search.study.rows import Row
from search.study.scaling import Point, fit, recurrence
from search.study.tables import tables

SPECS = Path(__file__).parents[3] / "specs"


def losses(phi, noise=0.0):
    rng = random.Random(0)
    for width, tokens in product((1, 2, 4, 8), (1e6, 2e6, 4e6)):
        for params in ({1: 100_000 * width}, {1: 20_000 * width, 6: 20_000 * width}):
            size = sum(count * times**phi for times, count in params.items())
            loss = 0.5 + 30 * size**-0.4 + 200 * tokens**-0.45
            yield Point(params, tokens, loss * (1 + rng.gauss(0, noise)))


@pytest.mark.parametrize("phi", [0.0, 0.46, 1.0])
def test_the_exponent_of_recurrence_is_found(phi):
    fitted = fit(list(losses(phi)))
    assert fitted.phi == pytest.approx(phi, abs=0.03)
    assert fitted.error < 2e-3


def test_noise_moves_it_little():
    points = list(losses(0.46, noise=0.002))
    assert fit(points).phi == pytest.approx(0.46, abs=0.1)
    assert fit(points, fit(points)).error <= fit(points).error


def test_parameters_are_told_apart_by_how_often_they_run():
    spec = load(SPECS / "dreamer-tiny.yaml")
    runs_ = recurrence(spec)
    assert set(runs_) == {1, 6}
    # embedding, which is the head too, and final norm
    assert runs_[1] == 16 * 48 + 48
    assert set(recurrence(load(SPECS / "untied-flops-tiny.yaml"))) == {1}


def test_a_study_with_three_sizes_has_a_fit_and_ranks_between_sizes(tmp_path):
    sizes = "sizes: {s: [], m: ['blocks.mlp.hidden=128'], l: ['blocks.mlp.hidden=256']}\n"
    text = STUDY.replace("untied: {set", "own: {derive: untied}\n  untied: {set") + sizes
    plan = Plan(toy_study(tmp_path, "rates=[1e-3]", text=text))
    rng, rows = random.Random(0), []
    for arm in plan.study.arms:
        size = sum(count * times**0.5 for times, count in recurrence(arm.spec).items())
        for seed in range(3):
            for budget in plan.config.budgets:
                loss = 0.5 + 30 * size**-0.4 + 20 * budget**-0.45 + rng.gauss(0, 1e-4)
                facts = {"tokens": budget, "params": 1, "flops": 1.0, "seconds": 1.0}
                metrics = {"loss": loss, "accuracy": 1 - loss}
                cell = plan.cell(arm, 1e-3, seed, budget)
                row = Row(arm.name, arm.size, 1e-3, seed, budget, cell.spec, "", **facts, metrics=metrics)
                rows.append(row)
    by_name = {table.name: table for table in tables(plan.results(rows))}
    name, value, interval = by_name["scaling"].rows[0]
    assert name == "phi, the exponent of recurrence"
    assert float(value) == pytest.approx(0.5, abs=0.1)
    low, high = map(float, interval.split(" to "))
    assert low <= 0.5 <= high
    assert [row[:2] for row in by_name["ranks"].rows[-2:]] == [["s", "m"], ["m", "l"]]
