"""Iteration over a graph and the loops in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from blocks.ir.graph import Graph, Loop, Node, Segment
from blocks.ir.operation import Operation, Weight
from blocks.ir.steps import Steps


class Place(NamedTuple):
    """The loops around a graph, outermost first, and what follows from them.

    Attributes:
        loops: (name of the loop's node, index name) of each loop.
        trips: the trip count of each loop, by index name.
        executions: the number of times the graph runs in one forward pass.
        copies: the number of sets of its weights.
        tied: whether the steps of the innermost loop share their weights.
        layers: the first step of each enclosing segment of a stack; each segment has its own weights.
        frozen: whether it runs without gradients.
    """

    loops: tuple[tuple[str, str], ...] = ()
    trips: Mapping[str, int] = {}
    executions: int = 1
    copies: int = 1
    tied: bool = True
    layers: tuple[int, ...] = ()
    frozen: bool = False

    @property
    def path(self) -> str:
        """The prefix of the full names of the graph's nodes, such as `stages.0.`."""
        return "".join(f"{node}." for node, _ in self.loops)

    def inside(self, node: str, loop: Loop) -> Place:
        """Return the place of the loop's body."""
        name = loop.origin if isinstance(loop, Segment) else node
        return Place(
            (*self.loops, (name, loop.index)),
            {**self.trips, loop.index: loop.trips},
            self.executions * loop.trips,
            self.copies * (1 if loop.tied else loop.trips),
            loop.tied,
            self.layers if loop.tied or not isinstance(loop, Segment) else (*self.layers, loop.first),
            self.frozen or (isinstance(loop, Segment) and loop.frozen),
        )

    def at(self, steps: Steps | None) -> Place:
        """Return the place of a node that runs at some steps of the innermost loop; None for all steps."""
        if steps is None:
            return self
        trips = self.trips[self.loops[-1][1]]
        running = len(steps.among(trips))
        copies = self.copies if self.tied else self.copies // trips * running
        return self._replace(executions=self.executions // trips * running, copies=copies)


def passes(graph: Graph) -> Iterator[Graph]:
    """Yield the graph of each pass of a training step: the model's, and that of a second pass if any."""
    yield graph
    if graph.second is not None:
        yield graph.second


def graphs_of_passes(graph: Graph) -> Iterator[tuple[Graph, Place]]:
    """Yield each graph and loop body of all passes of a training step, with its place."""
    for each in passes(graph):
        yield from graphs(each)


def operations(graph: Graph) -> Iterator[tuple[str, Operation, Node]]:
    """Yield (name, operation, node) of one graph in execution order."""
    for name in graph:
        node = graph.node(name)
        yield name, node.op, node


def map_nodes(graph: Graph, change: Callable[[Node], Node]) -> Graph:
    """Return a copy with every node changed; bodies of loops are copied and changed too."""
    made = graph.empty()
    for name, operation, node in operations(graph):
        if isinstance(operation, Loop):
            node = replace(node, op=replace(operation, body=map_nodes(operation.body, change)))
        made.put(name, change(node))
    return made


def graphs(graph: Graph, place: Place | None = None) -> Iterator[tuple[Graph, Place]]:
    """Yield the graph and each loop body inside it, with its place."""
    place = place or Place()
    yield graph, place
    for node, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            yield from graphs(operation.body, place.at(graph.node(node).active).inside(node, operation))


def own_weights(graph: Graph, place: Place) -> Iterator[tuple[str, Weight, Place]]:
    """Yield the weights of one graph, without its loops, with the place of their use."""
    active = {name: node.active for _, _, node in operations(graph) for name in node.weights}
    for name, weight in graph.weights.items():
        yield name, weight, place.at(active.get(name))


def weights(
    graph: Graph, place: Place | None = None, path: str = "", layer: int | None = None
) -> Iterator[tuple[str, Weight, Place]]:
    """Yield each tensor of the graph and its loops, once per copy, under its name in the state_dict.

    Args:
        graph: the graph.
        place: its place; the model's by default.
        path: the prefix of the names.
        layer: the layer, if the graph is the body of a stack.
    """
    place = place or Place()

    def has(steps: Steps | None) -> bool:
        return steps is None or layer is None or layer in steps.among(place.trips[place.loops[-1][1]])

    active = {name: node.active for _, _, node in operations(graph) for name in node.weights}
    for name, weight, used in own_weights(graph, place):
        if has(active.get(name)):
            yield f"{path}{name}", weight, used
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop) and has(data.active):
            inner = place.at(data.active).inside(node, operation)
            if operation.tied:
                yield from weights(operation.body, inner, f"{path}{node}.step.")
                continue
            for n in range(operation.trips):
                yield from weights(operation.body, inner, f"{path}{node}.layers.{n}.", n)
