"""A budget of work for searches over candidates, counted in operations costed, never in seconds."""

from __future__ import annotations

from blocks.ir.graph import Graph
from blocks.ir.walk import graphs
from composer.graph.passes.active_steps import costed


class OutOfBudget(Exception):
    """A search has spent its budget; it returns the best it has, and says that it stopped."""


class Budget:
    """How many operations a search may still cost: one candidate costs as many as its graph has.

    Attributes:
        total: what there was at the start.
    """

    def __init__(self, total: int) -> None:
        self.total = self._left = total

    @property
    def spent(self) -> bool:
        """Whether a search was stopped by it."""
        return self._left < 0

    @property
    def left(self) -> int:
        """How many operations it may still cost, 0 after it was stopped."""
        return max(self._left, 0)

    def spend(self, operations: int) -> None:
        """Take the work of one candidate, before it is done.

        Raises:
            OutOfBudget: there is not as much left.
        """
        if operations > self._left:
            self._left = -1
            raise OutOfBudget
        self._left -= operations


def size(graph: Graph) -> int:
    """Return the number of operations that costing a graph looks at: three trips of each nested loop."""
    return sum(len(body) * 3 ** max(len(place.loops) - 1, 0) for body, place in graphs(costed(graph)))
