"""Texts of differences, and how many runs overlap."""

from __future__ import annotations

import pytest

from search.progress.covered import most_at_once
from search.progress.words import gap_text


@pytest.mark.parametrize(
    ("gap", "spread", "text"),
    [
        (7.258e-05, 0.00041, "0.00007"),
        (0.00047538, 0.0007, "0.00048"),
        (0.2256, 0.05, "0.226"),
        (7.258e-05, 0.0, "0.000073"),
        (0.021, 0.0, "0.021"),
    ],
)
def test_a_difference_has_the_digits_that_the_spread_allows(gap, spread, text):
    assert gap_text("accuracy", gap, spread) == text


@pytest.mark.parametrize(
    ("spans", "most"),
    [([], 0), ([(0, 1), (1, 2)], 1), ([(0, 4), (1, 2), (3, 5)], 2), ([(0, 9), (1, 8), (2, 3)], 3)],
)
def test_the_most_spans_at_once(spans, most):
    assert most_at_once(spans) == most
