"""The permutation test of two small groups."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.chance import LEVEL, chance, smallest

results = st.lists(st.floats(-1e3, 1e3).map(lambda value: round(value, 3)), min_size=1, max_size=4)


@given(one=results, other=results)
def test_a_share_of_ways_that_no_order_changes(one, other):
    found = chance(one, other)
    assert 0 < found <= 1
    assert found * math.comb(len(one) + len(other), len(one)) == pytest.approx(
        round(found * math.comb(len(one) + len(other), len(one)))
    )
    assert (
        found
        == chance(other, one)
        == chance(one[::-1], other)
        == chance([-x for x in one], [-x for x in other])
    )


@given(size=st.integers(1, 4), other=st.integers(1, 4))
def test_groups_wholly_apart_come_to_the_least_share(size, other):
    assert chance(range(size), [100 + i for i in range(other)]) == pytest.approx(smallest(size, other))


def test_three_results_each_are_the_least_that_can_be_more_than_chance():
    assert chance([1, 2, 3], [4, 5, 6]) == LEVEL == smallest(3, 3)
    assert smallest(2, 2) > LEVEL
    assert smallest(2, 3) <= LEVEL
    assert chance([1, 2, 5], [4, 6, 7]) > LEVEL


def test_equal_results_are_chance():
    assert chance([0.1, 0.2, 0.3], [0.3, 0.1, 0.2]) == 1
    assert chance([1, 1, 1], [1, 1, 1]) == 1


def test_many_results_are_drawn():
    apart = [10 + i for i in range(12)]
    assert chance(range(12), [each + 5 for each in apart]) < 0.001
    assert 0.5 < chance(range(0, 24, 2), range(1, 25, 2)) <= 1
