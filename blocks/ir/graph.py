"""The graph of operations, and the loop: an operation whose body is a graph of its own. Torch-free."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import TYPE_CHECKING

import networkx as nx

from blocks.ir.operation import Operation, Shape, Value

if TYPE_CHECKING:
    _DiGraph = nx.DiGraph[str]
else:
    _DiGraph = nx.DiGraph


def fresh(name: str, taken: Container[object]) -> str:
    """Return `name`, or where that is taken `name_2`, `name_3`, ..."""
    names = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(each for each in names if each not in taken)


class Graph(_DiGraph):
    """Operations as nodes, in the order they run; an edge wherever one reads another's output.

    Node attributes: `op`, `inputs` (values), `weights` (names), `blocks` (who it belongs to), and once the
    passes ran `shapes` and `kernel`. Graph attributes: `inputs` (node names), `outputs` (values), `carried`
    (how many of both, first, go from step to step), `weights` (name -> Weight), `ties` (name -> shared name).
    """

    def leave(self, node: str, positions: Collection[int]) -> None:
        """Take the inputs at some positions from a node."""
        inputs: tuple[Value, ...] = self.nodes[node]["inputs"]
        kept = tuple(value for position, value in enumerate(inputs) if position not in positions)
        self.nodes[node]["inputs"] = kept
        read = {value.node for value in kept}
        self.remove_edges_from([(value.node, node) for value in inputs if value.node not in read])


@dataclass
class Loop(Operation):
    """A stage: its body runs `trips` times; with `tied` weights they are one set, else one per trip.

    `index` names the step's number in affine indices.
    """

    index: str
    trips: int
    tied: bool
    body: Graph

    recomputable = False

    def shapes(self, inputs: Sequence[Shape]) -> tuple[Shape, ...]:
        """Return the shapes of the carried values."""
        return tuple(inputs[: self.body.graph["carried"]])

    def describe(self) -> str:
        """Return `recur x 8` or `stack x 8`."""
        return f"{'recur' if self.tied else 'stack'} x {self.trips}"
