"""Mark operations to be run again in the backward pass instead of keeping what it needs of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from blocks.core.graph import Graph, Loop
from blocks.core.operation import Operation
from composer.graph.walk import operations


def mark_recompute(graph: Graph, chosen: Collection[str]) -> Graph:
    """Return the graph with exactly the chosen operations marked (`recompute`), by their full places.

    A place is a node's name after those of the loops around it, such as `stages.0.1.norm`. A fused operation
    goes by the names of its parts: it is marked where any of them is chosen, for it would else keep what was
    not to be kept.

    Raises:
        ValueError: a place is not that of an operation that can be recomputed.
    """
    possible = {*recomputable(graph), *_parts(graph)}
    for place in chosen:
        if place not in possible:
            raise ValueError(f"expected an operation that can be recomputed, got {place!r}")
    return _marked(graph, set(chosen), "")


def recomputable(graph: Graph, path: str = "") -> Iterator[str]:
    """Yield the places of the operations that can be: not depth state, not what a graph returns."""
    returned = {value.node for value in graph.graph["outputs"]}
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop):
            yield from recomputable(operation.body, f"{path}{node}.")
        elif operation.recomputable and node not in returned:
            yield from (f"{path}{part}" for part in _again(node, data))


def recomputed(graph: Graph, path: str = "") -> Iterator[str]:
    """Yield the places of the operations that are marked."""
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop):
            yield from recomputed(operation.body, f"{path}{node}.")
        elif data.get("recompute"):
            yield from (f"{path}{part}" for part in _again(node, data))


def _parts(graph: Graph, path: str = "") -> Iterator[str]:
    """Yield the places of what fused operations stand for that could be recomputed alone."""
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop):
            yield from _parts(operation.body, f"{path}{node}.")
        elif "parts" in data:
            yield from (f"{path}{part}" for part in _again(node, data))


def _again(node: str, data: dict[str, Any]) -> list[str]:
    """Return the names by which an operation is marked: its own, or those of its parts."""
    parts: dict[str, Operation] = data.get("parts", {node: data["op"]})
    return [name for name, operation in parts.items() if operation.recomputable]


def _marked(graph: Graph, chosen: set[str], path: str) -> Graph:
    marked = Graph(**graph.graph)
    returned = {value.node for value in graph.graph["outputs"]}
    for node, operation, data in operations(graph):
        kept = {key: value for key, value in data.items() if key != "recompute"}
        if isinstance(operation, Loop):
            kept["op"] = replace(operation, body=_marked(operation.body, chosen, f"{path}{node}."))
        elif operation.recomputable and node not in returned:
            names = [f"{path}{part}" for part in _again(node, data)]
            kept |= {} if chosen.isdisjoint(names) else {"recompute": True}
        marked.add_node(node, **kept)
        marked.add_edges_from((value.node, node) for value in data["inputs"])
    return marked
