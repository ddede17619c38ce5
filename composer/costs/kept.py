"""What stands kept for the backward pass when the forward pass ends, and what runs again.

Operations say which values their backward pass needs and what they keep inside (`Operation.saved`). One that is
marked `recompute` keeps nothing of its own: where its output is needed, or its own backward pass needs what it
keeps inside, it runs again from its inputs, so that these are needed in its place.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from blocks.core.graph import Graph, Loop
from blocks.core.operation import At, Saved
from blocks.core.operations import Input
from blocks.core.slots import Slots
from composer.costs.precision import Precision
from composer.graph.walk import Place, operations

IDS = 8
"""Bytes of a token id or a target."""


class Kept(NamedTuple):
    """What one graph keeps at each of its executions.

    Attributes:
        values: nodes whose outputs are kept; an input of a body among them is kept by the graph around it at
            the first trip, or where it is the same at every trip.
        inside: what unmarked operations keep that no other sees.
        reruns: marked operations that run again.
        loops: the same for the loops of this graph, by node.
    """

    values: frozenset[str]
    inside: dict[str, Saved]
    reruns: frozenset[str]
    loops: dict[str, Kept]


def place_at(place: Place, length: int, size: Precision) -> At:
    """Return the place costs are asked for."""
    return At(length, place.trips, stream_bytes=size.stream, compute_bytes=size.compute)


def kept(graph: Graph, place: Place, length: int, size: Precision) -> Kept:
    """Return what the operations of a graph keep, and those of the loops in it."""
    at = place_at(place, length, size)
    needed: set[str] = set()  # for the backward pass
    held: set[str] = set()  # of these, what is kept whether its maker is marked or not
    inside: dict[str, Saved] = {}
    reruns: set[str] = set()
    loops: dict[str, Kept] = {}
    # users come after makers: in reverse, all that need a value have been seen when its maker's turn comes
    for node, operation, data in reversed(list(operations(graph))):
        sources = [value.node for value in data["inputs"]]
        if isinstance(operation, Loop):
            loops[node] = kept(operation.body, place.inside(node, operation), length, size)
            names = operation.body.graph["inputs"]
            held.update(
                source
                for source, name in zip(sources, names, strict=True)
                if name in loops[node].values and not isinstance(graph.nodes[source]["op"], Slots)
            )
            continue
        saved = operation.saved(at)
        needed.update(sources[position] for position in saved.inputs)
        if not data.get("recompute"):
            inside[node] = saved
            held.update(node for _ in saved.outputs)
        elif (node in needed and node not in held) or saved.outputs or saved.extra:
            reruns.add(node)
            needed.update(sources)
    marked = {node for node, data in graph.nodes(data=True) if data.get("recompute")}
    return Kept(frozenset(held | needed - marked), inside, frozenset(reruns), loops)


def bytes_of(graph: Graph, node: str, at: At) -> float:
    """Return the bytes per token of what a node makes: all its outputs share one storage."""
    data: dict[str, Any] = graph.nodes[node]
    operation = data["op"]
    if isinstance(operation, Slots):
        return 0.0
    if isinstance(operation, Input) and not graph.graph["carried"]:
        return IDS
    elements: int = sum(prod(shape) for shape in data["shapes"] if shape and shape[0] > 0)
    return elements * element_bytes(graph, node, at)


def element_bytes(graph: Graph, node: str, at: At) -> int:
    """Return the bytes of an element of what a node makes."""
    operation = graph.nodes[node]["op"]
    if isinstance(operation, Loop):
        return element_bytes(operation.body, operation.body.graph["outputs"][0].node, at)
    if isinstance(operation, Input):
        return at.stream_bytes
    size: int = operation.output_bytes(at)
    return size


def saved_per_token(graph: Graph, length: int, size: Precision) -> float:
    """Return the bytes per token that are kept for the backward pass, at sequences of `length`."""
    return _saved(graph, Place(), kept(graph, Place(), length, size), length, size)


def _saved(graph: Graph, place: Place, here: Kept, length: int, size: Precision) -> float:
    at = place_at(place, length, size)
    total = sum((saved.extra for saved in here.inside.values()), 0.0) * place.executions
    first = 0
    if place.loops:
        first = place.executions // place.trips[place.loops[-1][1]]
    inputs, carried = graph.graph["inputs"], graph.graph["carried"]
    for node in here.values:
        if node not in inputs:
            total += bytes_of(graph, node, at) * place.executions
        elif inputs.index(node) < carried or not place.loops:
            total += bytes_of(graph, node, at) * (place.executions - first)
    for node, inner in here.loops.items():
        operation = graph.nodes[node]["op"]
        total += _saved(operation.body, place.inside(node, operation), inner, length, size)
    return total
