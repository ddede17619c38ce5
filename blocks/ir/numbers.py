"""Arithmetic that cost formulas are written in, so that they can also be traced as formulas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from blocks.ir.traced import Traced

N = TypeVar("N", int, float)


def largest(first: N, *others: N) -> N:
    """Return the largest value. Formulas use this instead of `max`, which would compare."""
    found: N = _chosen("max", first, *others)
    return found


def smallest(first: N, *others: N) -> N:
    """Return the smallest value. Formulas use this instead of `min`, which would compare."""
    found: N = _chosen("min", first, *others)
    return found


def total(values: Iterable[N]) -> N:
    """Return the sum, added up one by one: from Python 3.12 on `sum` corrects how floats are rounded."""
    found: N = 0
    for value in values:
        found = found + value
    return found


def label(number: object) -> str:
    """Return a number as a part of a name, which must not decide anything: a traced one is nobody's text."""
    return "n" if type(number) is Traced else str(number)


def _chosen(name: str, *values: Any) -> Any:
    if len(values) == 1:
        return values[0]
    for value in values:
        if type(value) is Traced:
            return value.trace.apply(name, *values)
    return max(values) if name == "max" else min(values)
