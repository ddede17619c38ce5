"""The winner, the knee and the order of finalists, as laws over values."""

from __future__ import annotations

import math
from statistics import fmean, variance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.language.schema.search import Objective
from search.compare.choosing import CLOSE, choose, knee, spread
from search.objectives import Goals, dominates

ONE = Goals([Objective(maximize="accuracy")])
TWO = Goals([Objective(maximize="accuracy"), Objective(minimize="flops_per_token")])
COST_FIRST = Goals([Objective(minimize="flops_per_token"), Objective(maximize="accuracy")])
THREE = Goals([*TWO.objectives, Objective(minimize="params")])

accuracy, cost = st.integers(0, 8).map(lambda n: n / 8), st.integers(1, 6).map(float)
runs = st.tuples(cost, st.lists(accuracy, min_size=3, max_size=3)).map(
    lambda drawn: [(value, drawn[0]) for value in drawn[1]]
)
candidates = st.dictionaries(st.integers(0, 9), runs, min_size=1, max_size=5)
front_of_two = st.lists(st.tuples(accuracy, cost), min_size=1, max_size=12).map(
    lambda points: {key: points[key] for key in TWO.front(dict(enumerate(points)))}
)


def means(results):
    return {key: tuple(map(fmean, zip(*each, strict=True))) for key, each in results.items()}


@pytest.mark.parametrize(
    ("cheap", "winner"),
    # the best mean is 0.9 with a standard error of sqrt(0.0001 / 3) = 0.0058
    [((0.895, 0.905, 0.885), "cheap"), ((0.885, 0.895, 0.875), "dear")],
)
def test_the_cheapest_within_one_standard_error_of_the_best_mean_wins(cheap, winner):
    results = {"dear": [(a, 8.0) for a in (0.9, 0.91, 0.89)], "cheap": [(a, 2.0) for a in cheap]}
    choice = choose(TWO, results)
    assert (choice.winner, choice.best) == (winner, "dear")
    assert choice.error == pytest.approx(math.sqrt(0.0001 / 3))


@given(candidates)
def test_the_standard_error_is_pooled_over_candidates(results):
    choice = choose(TWO, results)
    pooled = fmean(variance(value for value, _ in each) for each in results.values())
    assert choice.error == pytest.approx(math.sqrt(pooled / 3))


@given(candidates)
def test_the_winner_is_within_one_standard_error_and_no_finalist_dominates_it(results):
    choice, mean = choose(TWO, results), means(results)
    assert mean[choice.best][0] == max(value for value, _ in mean.values())
    assert mean[choice.winner][0] >= mean[choice.best][0] - choice.error
    own = TWO.ascending(mean[choice.winner])
    assert not any(dominates(TWO.ascending(other), own) for other in mean.values())
    assert mean[choice.winner][1] <= mean[choice.best][1]


@given(candidates)
def test_the_order_of_objectives_does_not_matter(results):
    turned = {key: [(b, a) for a, b in each] for key, each in results.items()}
    assert choose(COST_FIRST, turned).winner == choose(TWO, results).winner


@given(candidates)
def test_with_one_objective_the_best_mean_wins(results):
    single = {key: [(value,) for value, _ in each] for key, each in results.items()}
    choice = choose(ONE, single)
    assert means(single)[choice.winner] == max(means(single).values())
    assert choice.error is None


@given(st.dictionaries(st.integers(0, 9), st.tuples(accuracy, cost), min_size=1))
def test_with_one_result_each_the_best_wins_and_among_equals_the_cheapest(results):
    choice = choose(TWO, {key: [values] for key, values in results.items()})
    assert TWO.ascending(results[choice.winner]) == max(map(TWO.ascending, results.values()))
    assert choice.error is None


def test_without_candidates_there_is_no_winner():
    assert choose(TWO, {}) is None


def test_the_knee_is_farthest_from_the_line_between_the_ends():
    front = {"dear": (1.0, 10.0), "knee": (0.9, 3.0), "middle": (0.6, 2.0), "cheap": (0.5, 1.0)}
    assert knee(TWO, front) == "knee"
    assert knee(TWO, {key: front[key] for key in ("dear", "cheap")}) is None
    assert knee(ONE, {"a": (1.0,), "b": (1.0,), "c": (1.0,)}) is None
    assert knee(THREE, {"a": (1.0, 9.0, 1.0), "b": (0.9, 2.0, 2.0), "c": (0.1, 1.0, 9.0)}) == "b"


@given(front_of_two, st.floats(0.5, 100), st.floats(-10, 10))
def test_the_knee_does_not_depend_on_units(front, scale, offset):
    chosen = knee(TWO, front)
    if chosen is not None:
        moved = {key: (value, scale * spent + offset) for key, (value, spent) in front.items()}
        again = knee(TWO, moved)
        (a, x), (b, y) = front[chosen], front[again]
        wide = max(v for v, _ in front.values()) - min(v for v, _ in front.values())
        far = max(v for _, v in front.values()) - min(v for _, v in front.values())
        assert (a - b) / wide == pytest.approx((x - y) / far, abs=1e-6)


@given(front_of_two)
def test_finalists_are_spread_from_the_best_and_none_is_lost(front):
    order = spread(TWO, front)
    assert sorted(order) == sorted(front)
    assert front[order[0]][0] == max(value for value, _ in front.values())
    costs = [spent for _, spent in front.values()]
    reach = CLOSE * (max(costs) - min(costs))
    near = [any(abs(front[key][1] - front[o][1]) <= reach for o in order[:i]) for i, key in enumerate(order)]
    # once a near copy has come, all others are
    assert near == sorted(near)


def test_a_near_copy_comes_after_the_others_of_its_front():
    front = {"best": (1.0, 100.0), "copy": (0.99, 95.0), "next": (0.9, 50.0), "last": (0.5, 10.0)}
    assert spread(TWO, front) == ["best", "next", "last", "copy"]
    assert spread(COST_FIRST, {key: (b, a) for key, (a, b) in front.items()}) == spread(TWO, front)
