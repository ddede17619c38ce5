"""A budget of work for searches over candidates, counted in costed operations rather than seconds."""

from __future__ import annotations

from blocks.ir.graph import Graph
from blocks.ir.walk import graphs_of_passes
from composer.graph.passes.active_steps import costed


class OutOfBudget(Exception):
    """The budget of a search is spent; the search returns its best result and reports that it stopped."""


class Budget:
    """The number of operations that a search may still cost; a candidate takes as many as its graph has.

    Attributes:
        total: the budget at the start.
    """

    def __init__(self, total: int) -> None:
        self.total = self._left = total

    @property
    def spent(self) -> bool:
        """Whether the budget has stopped a search."""
        return self._left < 0

    @property
    def left(self) -> int:
        """The number of operations that may still be costed; 0 once a search was stopped."""
        return max(self._left, 0)

    def spend(self, operations: int) -> None:
        """Charge the work of one candidate before it is costed.

        Raises:
            OutOfBudget: less than that is left.
        """
        if operations > self._left:
            self._left = -1
            raise OutOfBudget
        self._left -= operations


def size(graph: Graph) -> int:
    """Return the number of operations visited when a graph is costed: three trips of each nested loop."""
    bodies = graphs_of_passes(costed(graph))
    return sum(len(body) * 3 ** max(len(place.loops) - 1, 0) for body, place in bodies)
