"""Human units come out exact, or are refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocks.base.fields import parse_quantity

_UNITS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


@given(st.decimals(0, 10**6, places=4), st.sampled_from(list(_UNITS)))
def test_a_quantity_is_exact_or_refused(number: Decimal, unit: str) -> None:
    exact = number * _UNITS[unit]
    if exact == int(exact):
        assert parse_quantity(f"{number}{unit}") == exact
    else:
        with pytest.raises(ValueError, match="a whole number"):
            parse_quantity(f"{number}{unit}")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.001M", 1_001_000), ("3e2k", 300_000), ("1e-3k", 1), (" 4 Ki ", 4096), ("0", 0), ("1.5Ki", 1536)],
)
def test_examples(text: str, value: int) -> None:
    assert parse_quantity(text) == value


def test_bytes_may_say_so_and_counts_may_not() -> None:
    assert parse_quantity("8GiB", byte=True) == 8 * 2**30
    with pytest.raises(ValueError, match="a count such as"):
        parse_quantity("8GiB")


@pytest.mark.parametrize(
    "text", ["", "M", "-1", "1 2", "1KI", "1e99999999999", "9" * 50, "0x10", "1.2.3", "four"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a "):
        parse_quantity(text)
