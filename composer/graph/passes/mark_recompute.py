"""Marks operations for recomputation in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace

from blocks.ir.graph import Graph, Loop, Node
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
    possible = {*_places(graph, lambda body, name: bool(body.node(name).parts) or _can_be(body, name))}
    for place in chosen:
        if place not in possible:
            raise ValueError(f"expected an operation that can be recomputed, got {place!r}")
    made = _marked(graph, set(chosen), "")
    if graph.second is not None:
        made.second = _marked(graph.second, set(chosen), "")
    return made


def recomputable(graph: Graph) -> Iterator[str]:
    """Yield the places of operations that can be recomputed: no depth state, no outputs of the graph.

    Those that read the values of all steps of a loop are not recomputed either, nor those that a loop reads
    beside others: it keeps what it is given.
    """
    return _places(graph, _can_be)


def recomputed(graph: Graph) -> Iterator[str]:
    """Yield the places of the operations that are marked."""
    return _places(graph, lambda body, name: body.node(name).recompute)


def _places(graph: Graph, holds: Callable[[Graph, str], bool], path: str = "") -> Iterator[str]:
    """Yield the places of the operations for which a predicate holds, those in loops included."""
    for name, operation, node in operations(graph):
        if isinstance(operation, Loop):
            yield from _places(operation.body, holds, f"{path}{name}.")
        elif holds(graph, name):
            yield from (f"{path}{part}" for part in _again(name, node))


def _can_be(graph: Graph, name: str) -> bool:
    node = graph.node(name)
    if any(graph.type_of(value).kind == "steps" for value in node.inputs):
        return False
    readers = {isinstance(graph.node(reader).op, Loop) for reader in graph.successors(name)}
    if len(readers) > 1:
        return False
    return node.op.recomputable and all(value.node != name for value in graph.outputs)


def _again(name: str, node: Node) -> list[str]:
    """Return the names by which an operation is marked: its own, or those of its parts."""
    parts = node.parts or {name: node.op}
    return [part for part, operation in parts.items() if operation.recomputable]


def _marked(graph: Graph, chosen: set[str], path: str) -> Graph:
    marked = graph.empty()
    for name, operation, node in operations(graph):
        if isinstance(operation, Loop):
            body = _marked(operation.body, chosen, f"{path}{name}.")
            marked.put(name, replace(node, op=replace(operation, body=body)))
        else:
            names = [f"{path}{part}" for part in _again(name, node)]
            again = _can_be(graph, name) and not chosen.isdisjoint(names)
            marked.put(name, replace(node, recompute=again))
    return marked
