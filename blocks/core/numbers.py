"""Arithmetic that cost formulas are written in, so that they can also be traced as formulas."""

from __future__ import annotations

from typing import TypeVar

N = TypeVar("N", int, float)


def largest(first: N, *others: N) -> N:
    """Return the largest value. Formulas use this instead of `max`, which would compare."""
    return max(first, *others) if others else first


def smallest(first: N, *others: N) -> N:
    """Return the smallest value. Formulas use this instead of `min`, which would compare."""
    return min(first, *others) if others else first
