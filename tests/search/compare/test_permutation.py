"""The permutation test of two small groups."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.compare.permutation_test import LEVEL, permutation_test, smallest_p

results = st.lists(st.floats(-1e3, 1e3).map(lambda value: round(value, 3)), min_size=1, max_size=4)


@given(one=results, other=results)
def test_p_is_a_share_of_splits_that_no_order_changes(one, other):
    p = permutation_test(one, other)
    assert 0 < p <= 1
    assert p * math.comb(len(one) + len(other), len(one)) == pytest.approx(
        round(p * math.comb(len(one) + len(other), len(one)))
    )
    assert (
        p
        == permutation_test(other, one)
        == permutation_test(one[::-1], other)
        == permutation_test([-x for x in one], [-x for x in other])
    )


@given(size=st.integers(1, 4), other=st.integers(1, 4))
def test_groups_wholly_apart_have_the_smallest_p(size, other):
    assert permutation_test(range(size), [100 + i for i in range(other)]) == pytest.approx(
        smallest_p(size, other)
    )


def test_three_results_each_are_the_least_that_can_be_more_than_permutation_test():
    assert permutation_test([1, 2, 3], [4, 5, 6]) == LEVEL == smallest_p(3, 3)
    assert smallest_p(2, 2) > LEVEL
    assert smallest_p(2, 3) <= LEVEL
    assert permutation_test([1, 2, 5], [4, 6, 7]) > LEVEL


def test_equal_results_are_permutation_test():
    assert permutation_test([0.1, 0.2, 0.3], [0.3, 0.1, 0.2]) == 1
    assert permutation_test([1, 1, 1], [1, 1, 1]) == 1


def test_splits_of_many_results_are_sampled():
    apart = [10 + i for i in range(12)]
    assert permutation_test(range(12), [each + 5 for each in apart]) < 0.001
    assert 0.5 < permutation_test(range(0, 24, 2), range(1, 25, 2)) <= 1
