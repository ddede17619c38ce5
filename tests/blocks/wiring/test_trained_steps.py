"""Numbers of steps in training: their distributions, how they are drawn, and what is refused."""

import json
from collections import Counter

import numpy as np
import pytest
from cases import DEPTH, FFN, SEQ, tree
from scipy.integrate import quad
from scipy.stats import norm, poisson
from strategies import make

from blocks.wiring.train.poisson_lognormal import PoissonLogNormalSteps
from composer.language.load import loads
from composer.language.schema.identity import arch_hash
from composer.language.schema.steps import drawn_steps, step_mix, trained_steps, with_steps
from composer.settings.errors import SpecError

TRAIN = {"data": {"task": "hop", "length": 32, "symbols": 4}, "tokens": 3200, "batch_tokens": 320}


def spec(train, steps=4, **rest):
    recur = {"steps": steps, "train": train}
    plain = tree({"s": SEQ, "d": DEPTH, "f": FFN}, {"recur": recur, "step": ["s", "d", "f"]})
    plain["model"] = {**plain["model"], "vocab": 300, "context": 32}
    return make({**plain, "train": {**TRAIN, **rest}})


@pytest.mark.parametrize(("mean", "sigma", "most"), [(8, 0.5, 32), (33, 0.5, 64), (4, 2, 9), (6.5, 0, 20)])
def test_the_log_normal_poisson_has_the_probabilities_of_scipy(mean, sigma, most):
    given = {"poisson_lognormal": {"mean": mean, "sigma": sigma, "max": most}}
    (phase,) = PoissonLogNormalSteps.model_validate(given).phases(8, 100)
    center = np.log(mean - 1) - sigma**2 / 2

    def share(k):
        if not sigma:
            return poisson.pmf(k, mean - 1)

        def density(t):
            return poisson.pmf(k, np.exp(center + sigma * t)) * norm.pdf(t)

        peak = np.clip((np.log(max(k, 0.5)) - center) / sigma, -8, 8)
        return quad(density, -9, 9, points=[peak], limit=400, epsabs=1e-13)[0]

    expected = [share(k) for k in range(most - 1)]
    assert [*phase.numbers] == [*range(1, most + 1)]
    assert phase.shares[:-1] == pytest.approx(expected, abs=1e-10)
    assert sum(phase.shares) == pytest.approx(1, abs=1e-12)


def test_the_mean_is_that_before_the_maximum():
    got = trained_steps(spec({"poisson_lognormal": {"mean": 5, "max": 200}}))["stages.0"]
    assert (got.least, got.most) == (1, 200)
    assert got.expected == pytest.approx(5, abs=1e-6)
    less = trained_steps(spec({"poisson_lognormal": {"mean": 5, "max": 6}}))["stages.0"]
    assert less.expected < 4.6


@pytest.mark.parametrize("train", [{"uniform": [2, 5]}, {"poisson_lognormal": {"mean": 3, "max": 6}}])
def test_drawn_numbers_follow_the_distribution(train):
    built = spec(train)
    shares = Counter()
    for share, numbers in step_mix(built):
        shares[numbers["stages.0"]] += share
    drawn = Counter(drawn_steps(built, n // 2, n % 2)["stages.0"] for n in range(20_000))
    assert drawn.keys() <= shares.keys()
    for number, share in shares.items():
        # five standard deviations
        assert abs(drawn[number] / 20_000 - share) < 5 * (share / 20_000) ** 0.5


def test_draws_depend_on_the_seed_the_optimizer_step_and_the_micro_batch():
    def row(result, step=range(40), micro=(0,)):
        return [drawn_steps(result, n, m)["stages.0"] for n in step for m in micro]

    one = spec({"uniform": [1, 8]})
    assert row(one) == row(make(json.loads(json.dumps(one.model_dump(by_alias=True, exclude_none=True)))))
    assert row(one) != row(spec({"uniform": [1, 8]}, seed=1))
    assert row(one) != row(one, micro=(1,))


def test_stages_draw_independently():
    recur = {"steps": 2, "train": {"uniform": [1, 2]}}
    inner = {"recur": recur, "step": ["s"]}
    built = make(tree({"s": SEQ, "f": FFN}, {"recur": recur, "step": [inner, "f"]}, inner))
    assert {place for _, numbers in step_mix(built) for place in numbers} == {
        "stages.0",
        "stages.0.0",
        "stages.1",
    }
    drawn = Counter(tuple(drawn_steps(built, n, 0).values()) for n in range(800))
    assert len(drawn) == 8
    assert min(drawn.values()) > 60


def test_late_steps_begin_at_a_whole_optimizer_step():
    built = spec({"at": 0.25})
    assert built.train.steps == 10
    assert [drawn_steps(built, n, 0)["stages.0"] for n in range(10)] == [1, 1, *[4] * 8]
    assert step_mix(built) == [(0.2, {"stages.0": 1}), (0.8, {"stages.0": 4})]
    assert trained_steps(built)["stages.0"].expected == pytest.approx(3.4)


def test_a_mapping_that_says_no_more_than_its_number_is_the_number():
    assert spec("fixed") == spec("fixed") != spec({"uniform": [2, 8]})
    assert spec("fixed").stages[0].recur == 4
    assert (
        arch_hash(spec({"uniform": [2, 8]}))
        != arch_hash(spec({"uniform": [2, 7]}))
        != arch_hash(spec("fixed"))
    )
    assert with_steps(spec({"uniform": [2, 8]}), {"stages.0": 3}).stages[0].recur == 3


def test_an_option_laid_over_another_takes_its_place():
    text = json.dumps(spec({"uniform": [2, 8]}).model_dump(by_alias=True, exclude_none=True))
    for override in (
        "stages.0.recur={train: {at: 0.5}}",
        "stages.0.recur.train={at: 0.5}",
        "stages.0.recur.train.at=0.5",
    ):
        assert loads(text, overrides=[override]).stages[0].recur.train.plain() == {"at": 0.5, "from": 1}
    assert loads(text, overrides=["stages.0.recur.train.uniform=[2, 3]"]).stages[0].recur.train.uniform == (
        2,
        3,
    )


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"uniform": [5, 2]},
            "a first number that is not above the last, and at most 256 numbers, got 5 to 2",
        ),
        ({"uniform": [1, 10**15]}, "at most 256 numbers, got 1 to 1000000000000000"),
        ({"poisson_lognormal": {"mean": 4, "max": 10**9}}, "max: expected a whole number"),
        ({"poisson_lognormal": {"mean": 0.5, "max": 9}}, "mean: expected a number from 1 to 1000, got 0.5"),
        ({"at": 0.5, "from": 4}, r"recur.train.from: expected a number below steps \(4\), got 4"),
        ({"at": 1.5}, "recur.train.at: expected a number"),
        ({"geometric": 2}, "recur.train: expected fixed, {at: ..}"),
    ],
)
def test_what_makes_no_sense_is_refused(train, message):
    with pytest.raises(SpecError, match=message):
        spec(train)


def test_too_many_combinations_are_refused():
    stage = {"recur": {"steps": 2, "train": {"uniform": [1, 40]}}, "step": ["s"]}
    with pytest.raises(
        SpecError, match="at most 1024 combinations of numbers of steps in training, got 1600"
    ):
        make(tree({"s": SEQ}, stage, stage))
