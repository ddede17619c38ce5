"""Mark operations to be run again in the backward pass instead of keeping what it needs of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import Operation
from blocks.ir.walk import operations


def mark_recompute(graph: Graph, chosen: Collection[str]) -> Graph:
    """Return the graph with exactly the chosen operations marked (`recompute`), by their full places.

    A place is a node's name after those of the loops around it, such as `stages.0.1.norm`. A fused operation
    goes by the names of its parts: it is marked where any of them is chosen, for it would else keep what was
    not to be kept.

    Raises:
        ValueError: a place is not that of an operation that can be recomputed.
    """
    # what a fused operation stands for could be alone, even if it cannot
    possible = {*_places(graph, lambda body, node: "parts" in body.nodes[node] or _can_be(body, node))}
    for place in chosen:
        if place not in possible:
            raise ValueError(f"expected an operation that can be recomputed, got {place!r}")
    return _marked(graph, set(chosen), "")


def recomputable(graph: Graph) -> Iterator[str]:
    """Yield the places of the operations that can be: not depth state, not what a graph returns."""
    return _places(graph, _can_be)


def recomputed(graph: Graph) -> Iterator[str]:
    """Yield the places of the operations that are marked."""
    return _places(graph, lambda body, node: bool(body.nodes[node].get("recompute")))


def _places(graph: Graph, holds: Callable[[Graph, str], bool], path: str = "") -> Iterator[str]:
    """Yield the places by which the operations go, in loops too, for which something holds."""
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop):
            yield from _places(operation.body, holds, f"{path}{node}.")
        elif holds(graph, node):
            yield from (f"{path}{part}" for part in _again(node, data))


def _can_be(graph: Graph, node: str) -> bool:
    recomputable: bool = graph.nodes[node]["op"].recomputable
    return recomputable and all(value.node != node for value in graph.graph["outputs"])


def _again(node: str, data: dict[str, Any]) -> list[str]:
    """Return the names by which an operation is marked: its own, or those of its parts."""
    parts: dict[str, Operation] = data.get("parts", {node: data["op"]})
    return [name for name, operation in parts.items() if operation.recomputable]


def _marked(graph: Graph, chosen: set[str], path: str) -> Graph:
    marked = Graph(**graph.graph)
    for node, operation, data in operations(graph):
        kept = {key: value for key, value in data.items() if key != "recompute"}
        if isinstance(operation, Loop):
            kept["op"] = replace(operation, body=_marked(operation.body, chosen, f"{path}{node}."))
        elif _can_be(graph, node):
            names = [f"{path}{part}" for part in _again(node, data)]
            kept |= {} if chosen.isdisjoint(names) else {"recompute": True}
        marked.add_node(node, **kept)
        marked.add_edges_from((value.node, node) for value in data["inputs"])
    return marked
