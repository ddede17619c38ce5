"""Functions for cost formulas that also work on traced numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from blocks.ir.traced import Traced

N = TypeVar("N", int, float)


def largest(first: N, *others: N) -> N:
    """Return the largest value; unlike `max` it adds no guard to a trace."""
    chosen: N = _chosen("max", first, *others)
    return chosen


def smallest(first: N, *others: N) -> N:
    """Return the smallest value; unlike `min` it adds no guard to a trace."""
    chosen: N = _chosen("min", first, *others)
    return chosen


def total(values: Iterable[N]) -> N:
    """Return the sum, added from left to right; `sum` compensates rounding from Python 3.12 on."""
    result: N = 0
    for value in values:
        result = result + value
    return result


def label(number: object) -> str:
    """Return a number as part of a name; "n" if it is traced, since its text would pin its value."""
    return "n" if type(number) is Traced else str(number)


def _chosen(name: str, *values: Any) -> Any:
    if len(values) == 1:
        return values[0]
    for value in values:
        if type(value) is Traced:
            return value.trace.apply(name, *values)
    return max(values) if name == "max" else min(values)
