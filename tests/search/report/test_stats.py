"""What a report concludes from trials, and the scales it is drawn on."""

from __future__ import annotations

import random

import pytest

from composer.page.chart import ErrorScale, accuracy_scale, scale, spread
from search.progress.words import value_text
from search.report.stats import FEWEST, agreement, effects


def test_a_parameter_that_decides_is_found_and_one_that_does_nothing_is_not():
    rng = random.Random(1)
    answers = [{"big": rng.choice("ab"), "none": rng.choice([1, 2, 3])} for _ in range(40)]
    for each in answers[:20]:
        each["branch"] = rng.choice([1, 2])
    values = [(each["big"] == "a") + 0.1 * rng.random() for each in answers]
    effects_ = effects(answers, values)
    assert effects_.trials == 40
    assert effects_.explained > 0.9
    by_name = {each.parameter: each for each in effects_.parameters}
    assert effects_.parameters[0].parameter == "big"
    assert by_name["big"].share > 0.8 > by_name["big"].chance
    assert by_name["none"].share < by_name["none"].chance
    low, high = by_name["big"].levels
    assert (low.label, high.label) == ("a", "b")
    assert low.effect - high.effect == pytest.approx(1, abs=0.1)
    assert low.low <= low.effect <= low.high
    assert low.count + high.count == 40
    assert sum(level.count for level in by_name["branch"].levels) == 20


def test_noise_is_not_explained():
    rng = random.Random(2)
    answers = [{"a": rng.choice([1, 2, 3]), "b": rng.uniform(0, 1)} for _ in range(30)]
    effects_ = effects(answers, [rng.random() for _ in answers])
    assert effects_.explained < 0.2
    assert all(len(each.levels) <= 6 for each in effects_.parameters)


@pytest.mark.parametrize(
    ("answers", "values"),
    [
        ([{"a": i % 2} for i in range(FEWEST - 1)], list(range(FEWEST - 1))),
        ([{"a": i % 2} for i in range(20)], [1.0] * 20),
        ([{"a": 1} for _ in range(20)], list(range(20))),
        ([{"a": None} for _ in range(20)], list(range(20))),
    ],
)
def test_nothing_is_said_of_parameter_without_grounds(answers, values):
    assert effects(answers, values) is None


def test_none_is_an_answer_unlike_a_question_not_asked():
    answers = [{"a": None if i % 2 else 4} for i in range(20)] + [{} for _ in range(5)]
    effects_ = effects(answers, [float(i % 2) for i in range(25)])
    assert {level.label: level.count for level in effects_.parameters[0].levels} == {"null": 10, "4": 10}


def test_agreement_is_kendalls_tau_b():
    assert agreement([1, 2, 3, 4], [1, 2, 3, 4]).tau == 1
    assert agreement([1, 2, 3, 4], [4, 3, 2, 1]).tau == -1
    # five concordant pairs, one discordant
    assert agreement([1, 2, 3, 4], [1, 2, 4, 3]).tau == pytest.approx(4 / 6)
    # one pair tied in the first: 5 - 0 over sqrt(5 * 6)
    assert agreement([1, 1, 2, 3], [1, 2, 3, 4]).tau == pytest.approx(5 / 30**0.5)
    assert agreement([1, 1, 1], [1, 2, 3]) is None
    tau = agreement(list(range(30)), [i + 5 * (-1) ** i for i in range(30)])
    assert -1 <= tau.low <= tau.tau <= tau.high <= 1


def test_scales_hold_their_values_and_ticks_are_round():
    across = scale([3, 70], 0, 100)
    assert 0 < across(3) < across(70) < 100
    assert across.ticks() == [0, 20, 40, 60] or across.ticks() == [20, 40, 60]
    wide = scale([900, 110_000], 0, 100, log=True)
    assert {1000, 10_000, 100_000} <= set(wide.ticks())
    assert scale([], 0, 1).ticks()
    assert scale([5], 0, 1)(5) == pytest.approx(0.5)
    assert spread([10, 11, 12], 5, 0, 100) == [10, 15, 20]
    assert spread([98, 99], 5, 0, 100) == [95, 100]


def test_accuracies_near_one_stand_apart_and_one_itself_has_a_place():
    up = accuracy_scale([0.8, 0.99, 0.999, 1.0], 300, 0)
    assert isinstance(up, ErrorScale)
    places = [up(value) for value in (0.8, 0.99, 0.999, 1.0, 1.01)]
    assert places == sorted(places, reverse=True)
    assert 0 <= places[-1] == places[-2] < places[2] - 20
    assert {0.9, 0.99, 0.999} <= {round(tick, 6) for tick in up.ticks()}


@pytest.mark.parametrize("values", [[0.2, 0.5], [0.99, 0.991], [-3.0, 0.99999], [1.0], [4.0, 0.99, 0.1]])
def test_other_values_have_a_linear_scale(values):
    assert accuracy_scale(values, 0, 10) == scale(values, 0, 10)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5"), (0.99, "0.99"), (0.99931, "0.9993"), (0.9999, "0.9999"), (0.99998, "0.99998"), (1.0, "1")],
)
def test_an_accuracy_near_one_has_the_digits_that_tell_it_from_one(value, text):
    assert value_text("accuracy", value) == text
