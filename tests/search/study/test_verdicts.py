"""Verdicts in worlds whose truth is known: what is measured is a formula with noise."""

import math
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import samples
from studies import STUDY, toy_study

from search.study.curves import Curve, log_factor
from search.study.intervals import Estimate, bootstrap, holm, t_cumulative, t_quantile
from search.study.plan import Plan
from search.study.rows import Row
from search.study.verdicts import comparisons, factor, verdicts

TEXT = (
    STUDY.replace("rates: [1e-3, 2e-3]", "rates: [1e-3]").replace("[4Ki, 8Ki]", "[250k, 500k, 1M]")
    + "claims:\n"
)
WORLDS = 80


def claim(factor=1, measure="tokens_to_accuracy"):
    return f"  - {{arm: untied, against: looped, factor: {factor}, measure: {measure}}}\n"


def world(plan, rng, *, better=1.0, noise=0.02):
    """Rows of one study: accuracy grows with tokens, and the untied arm needs `better` times fewer."""
    rows, seeds = [], range(plan.seed, plan.seed + 1 + plan.config.seeds)
    shared = {seed: rng.gauss(0, noise) for seed in seeds}
    for arm in plan.study.arms:
        for seed in seeds:
            for budget in plan.config.budgets:
                tokens = budget * (better if arm.name == "untied" else 1)
                score = 1 / (1 + (400_000 / tokens) ** 1.2) + shared[seed] + rng.gauss(0, noise)
                cell = plan.cell(arm, 1e-3, seed, budget)
                costs = {"tokens": budget, "params": 1, "flops": 6.0 * budget, "seconds": budget / 1e4}
                metrics = {"accuracy": score, "loss": 2 - score}
                row = Row(arm.name, "", 1e-3, seed, budget, cell.spec, "", **costs, metrics=metrics)
                rows.append(row)
    return plan.results(rows)


def at_most(count, total, rate):
    """Whether a count is no evidence, at one in a thousand, that the true rate is above `rate`."""
    tail = sum(math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(count, total + 1))
    return tail > 1e-3


def judged(plan, **facts):
    rng = random.Random(7)
    return [[each.judgement for each in verdicts(world(plan, rng, **facts))] for _ in range(WORLDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("planted")


@pytest.mark.parametrize("seeds", [3, 5])
def test_an_arm_that_is_twice_as_token_efficient_is_found_so(folder, seeds):
    # true, true, the truth itself, false
    text = TEXT + claim() + claim(1.5) + claim(2) + claim(3)
    verdict = judged(Plan(toy_study(folder, f"seeds={seeds}", text=text)), better=2.0)
    wrong = sum(v[0] == "not supported" or v[1] == "not supported" or v[3] == "supported" for v in verdict)
    # a claim of the truth itself is decided either way only by chance
    wrong += sum(v[2] != "undecided" for v in verdict)
    assert at_most(wrong, WORLDS, 0.05)
    missed = sum(v[0] != "supported" for v in verdict)
    assert at_most(missed, WORLDS, 0.05 if seeds == 5 else 0.4)


@pytest.mark.parametrize("seeds", [3, 5])
def test_an_equal_arm_is_not_found_better(folder, seeds):
    # true of neither arm, and false
    text = TEXT + claim() + claim(2) + claim(2, "flops_to_loss")
    verdict = judged(Plan(toy_study(folder, f"seeds={seeds}", text=text)))
    wrong = sum(v[0] != "undecided" or "supported" in v[1:] for v in verdict)
    assert at_most(wrong, WORLDS, 0.05)
    missed = sum(v[1] != "not supported" for v in verdict)
    assert at_most(missed, WORLDS, 0.05 if seeds == 5 else 0.5)


def test_an_undecided_claim_names_the_seeds_that_would_decide_it(folder):
    plan = Plan(toy_study(folder, "seeds=3", text=TEXT + claim(1.8)))
    rng, seeds = random.Random(3), []
    for _ in range(WORLDS // 4):
        (verdict,) = verdicts(world(plan, rng, better=2.0))
        if verdict.judgement == "undecided" and verdict.seeds:
            seeds.append(verdict.seeds)
            assert f"about {verdict.seeds} seeds would decide it" in verdict.why
    assert seeds
    assert min(seeds) > 3


def test_what_budgets_cannot_show_is_undecided(folder):
    plan = Plan(toy_study(folder, "seeds=3", text=TEXT + claim(5)))
    (verdict,) = verdicts(world(plan, random.Random(0), better=8.0, noise=0.001))
    assert verdict.judgement == "undecided"
    assert verdict.why == "these budgets cannot show such a factor: add smaller or larger ones"
    low, high = verdict.factor.interval()
    assert low == pytest.approx(4)
    assert high == math.inf


def test_without_results_nothing_is_decided(folder):
    plan = Plan(toy_study(folder, text=TEXT + claim()))
    (verdict,) = verdicts(plan.results([]))
    assert (verdict.judgement, verdict.p) == ("undecided", 1.0)
    assert [each.difference for each in comparisons(plan.results([]))] == [None]
    looped, untied = plan.study.arms
    assert factor(plan.results([]), untied, looped, "tokens", "loss").value is None


def test_the_reference_is_compared_with_all_others_and_corrected(folder):
    plan = Plan(toy_study(folder, "seeds=5", text=TEXT.replace("claims:\n", "")))
    (got,) = comparisons(world(plan, random.Random(0), better=2.0, noise=0.001))
    assert got.difference.value > 0.1
    assert got.permuted == pytest.approx(2 / 252)
    assert got.p == got.adjusted < 1e-4


@given(scores=st.lists(st.floats(0, 1), min_size=2, max_size=6), shift=st.floats(0.3, 3))
@samples(100)
def test_a_curve_shifted_in_cost_has_that_factor(scores, shift):
    costs = [2.0**n for n in range(len(scores))]
    one, other = Curve([cost / shift for cost in costs], scores), Curve(costs, scores)
    assert log_factor(one, other) == pytest.approx(math.log(shift), abs=1e-6)
    assert log_factor(one, other) == -log_factor(other, one)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=8))
@samples(100)
def test_a_rising_curve_keeps_its_mean_and_its_order(scores):
    rising = Curve(range(1, len(scores) + 1), scores).rising().scores
    assert list(rising) == sorted(rising)
    assert fmean(rising) == pytest.approx(fmean(scores), abs=1e-9)
    assert (list(rising) == scores) == (scores == sorted(scores))


def test_student_t():
    # from the tables
    known = {1: 12.706, 2: 4.3027, 3: 3.1824, 4: 2.7764, 10: 2.2281, 30: 2.0423}
    for freedom, value in known.items():
        assert t_quantile(0.975, freedom) == pytest.approx(value, rel=1e-4)
        assert t_cumulative(-value, freedom) == pytest.approx(0.025, rel=1e-3)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_bootstrap_has_the_error_of_a_mean():
    one = {seed: [value] for seed, value in enumerate((1.0, 2.0, 4.0))}
    got = bootstrap(
        one, {key: [0.0] for key in one}, lambda a, b: fmean(x for (x,) in a) - fmean(x for (x,) in b)
    )
    # the standard deviation, 1.5275, by the square root of three
    assert got == Estimate(pytest.approx(7 / 3), pytest.approx(1.5275 / math.sqrt(3), rel=1e-4), 3)
    assert got.interval()[0] < 0 < got.p(0) < 1
    assert bootstrap({1: [1.0]}, {1: [0.0]}, lambda a, b: 1.0).interval() == (-math.inf, math.inf)
