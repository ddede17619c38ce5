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
        tied: whether the steps of the innermost loop share theirs.
        layers: the first step of each segment of a stack around it; each segment has weights of its own.
        frozen: whether it runs without gradients.
    """

    loops: tuple[tuple[str, str], ...] = ()
    trips: dict[str, int] = field(default_factory=dict)
    executions: int = 1
    copies: int = 1
    tied: bool = True
    layers: tuple[int, ...] = ()
    frozen: bool = False

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
        """Return the same place for what runs at some steps of the innermost loop only, None for all."""
        if steps is None:
            return self
        trips = self.trips[self.loops[-1][1]]
        running = len(steps.among(trips))
        copies = self.copies if self.tied else self.copies // trips * running
        return replace(self, executions=self.executions // trips * running, copies=copies)


def passes(graph: Graph) -> Iterator[Graph]:
    """Yield the graphs of the passes that a training step makes: the model's own, and a second one's."""
    yield graph
    if graph.second is not None:
        yield graph.second


def graphs_of_passes(graph: Graph) -> Iterator[tuple[Graph, Place]]:
    """Yield the graphs and loops' bodies of all passes of a training step, each with its place."""
    for each in passes(graph):
        yield from graphs(each)


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
            yield from graphs(operation.body, place.at(graph.node(node).active).inside(node, operation))


def own_weights(graph: Graph, place: Place) -> Iterator[tuple[str, Weight, Place]]:
    """Yield the weights of one graph with the place of what uses them."""
    active = {name: node.active for _, _, node in operations(graph) for name in node.weights}
    for name, weight in graph.weights.items():
        yield name, weight, place.at(active.get(name))


def weights(
    graph: Graph, place: Place | None = None, path: str = "", layer: int | None = None
) -> Iterator[tuple[str, Weight, Place]]:
    """Yield every tensor the graph stands for, copy by copy, under its full name in a state_dict.

    Of a stack's body these are the tensors of one layer, `layer`.
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
