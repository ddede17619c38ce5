"""Walking a graph and the loops in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from blocks.ir.graph import Graph, Loop, Node, Segment
from blocks.ir.operation import Operation, Weight
from blocks.ir.steps import Steps


@dataclass(frozen=True)
class Place:
    """Where a graph stands: the loops around it, outermost first.

    Attributes:
        loops: (name of the loop's node, index name) of each.
        trips: trip count of each, by index name.
        executions: how often the graph runs in one forward pass.
        copies: how many sets of its weights there are.
    """

    loops: tuple[tuple[str, str], ...] = ()
    trips: dict[str, int] = field(default_factory=dict)
    executions: int = 1
    copies: int = 1

    def inside(self, node: str, loop: Loop) -> Place:
        """Return the place of the loop's body."""
        name = loop.origin if isinstance(loop, Segment) else node
        return Place(
            (*self.loops, (name, loop.index)),
            {**self.trips, loop.index: loop.trips},
            self.executions * loop.trips,
            self.copies * (1 if loop.tied else loop.trips),
        )

    def at(self, steps: Steps) -> Place:
        """Return the same place for what runs at some steps of the innermost loop only."""
        trips = self.trips[self.loops[-1][1]]
        return replace(self, executions=self.executions // trips * len(steps.among(trips)))


def operations(graph: Graph) -> Iterator[tuple[str, Operation, Node]]:
    """Yield (name, operation, node) of one graph in the order they run."""
    for name in graph:
        node = graph.node(name)
        yield name, node.op, node


def graphs(graph: Graph, place: Place | None = None) -> Iterator[tuple[Graph, Place]]:
    """Yield the graph and every loop's body below it, each with its place."""
    place = place or Place()
    yield graph, place
    for node, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            yield from graphs(operation.body, place.inside(node, operation))


def weights(graph: Graph, place: Place | None = None, path: str = "") -> Iterator[tuple[str, Weight, Place]]:
    """Yield every tensor the graph stands for, copy by copy, under its full name in a state_dict."""
    place = place or Place()
    active = {name: node.active for _, _, node in operations(graph) for name in node.weights if node.active}
    for name, weight in graph.weights.items():
        yield f"{path}{name}", weight, place.at(active[name]) if name in active else place
    for node, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            sets = ["step"] if operation.tied else [f"layers.{n}" for n in range(operation.trips)]
            for each in sets:
                yield from weights(operation.body, place.inside(node, operation), f"{path}{node}.{each}.")
