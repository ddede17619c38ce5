"""Time during which anything happened, as a set of spans to which more are added."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import TypeAlias

Span: TypeAlias = tuple[float, float]


class Covered:
    """The union of spans, as disjoint ones in order.

    Attributes:
        total: how much they cover; what is in several spans counts once.
    """

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._begins: list[float] = []
        self._ends: list[float] = []
        self.total = 0.0
        for span in spans:
            self.add(span)

    def add(self, span: Span) -> None:
        """Add a span; one that ends before it begins, by a clock that was set back, covers nothing."""
        begun, ended = span
        if ended <= begun:
            return
        self.total += self._beyond(begun, ended)
        first, last = self._touching(begun, ended)
        if first < last:
            begun, ended = min(begun, self._begins[first]), max(ended, self._ends[last - 1])
        self._begins[first:last] = [begun]
        self._ends[first:last] = [ended]

    def with_more(self, spans: Iterable[Span]) -> float:
        """Return the total with a few more spans, which are not added."""
        more = Covered(spans)
        return self.total + sum(map(self._beyond, more._begins, more._ends))

    def _beyond(self, begun: float, ended: float) -> float:
        """Return how much of a span is not covered."""
        first, last = self._touching(begun, ended)
        inside = zip(self._begins[first:last], self._ends[first:last], strict=True)
        return ended - begun - sum(min(ended, end) - max(begun, begin) for begin, end in inside)

    def _touching(self, begun: float, ended: float) -> tuple[int, int]:
        """Return the range of the disjoint spans that overlap a span or touch it."""
        return bisect_left(self._ends, begun), bisect_right(self._begins, ended)


def most_at_once(spans: Iterable[Span]) -> int:
    """Return how many spans overlap at most; those that only touch do not."""
    # at one time ends come before beginnings
    steps = sorted(step for begun, ended in spans for step in ((begun, 1), (ended, -1)))
    return max(accumulate(change for _, change in steps), default=0)
