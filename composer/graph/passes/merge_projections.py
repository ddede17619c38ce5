"""Merge projections that read the same input into one product with joined weights."""

from __future__ import annotations

from typing import Any

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import Value
from blocks.ir.walk import operations
from blocks.primitives.operations import Project


def merge_projections(graph: Graph, apart: bool = False) -> Graph:
    """Return the graph with one projection per input, here and in the loops below.

    With `apart` projections of different blocks are not joined.
    Only weights of the same stage are joined; their names stay, so checkpoints do not change.
    """
    groups: dict[tuple[Value, str], list[str]] = {}
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop):
            operation.body = merge_projections(operation.body, apart)
        elif isinstance(operation, Project):
            place = node.rpartition(".")[0] if apart else ""
            groups.setdefault((data["inputs"][0], place), []).append(node)
    groups = {key: nodes for key, nodes in groups.items() if len(nodes) > 1}
    if not groups:
        return graph
    first = {nodes[0]: nodes for nodes in groups.values()}
    moved = {node: Value(nodes[0], n) for nodes in groups.values() for n, node in enumerate(nodes)}
    merged = Graph(**graph.graph)
    for node, _, data in operations(graph):
        if node in first:
            data = _joined([graph.nodes[each] for each in first[node]])
        elif node in moved:
            continue
        inputs = tuple(moved.get(value.node, value) for value in data["inputs"])
        merged.add_node(node, **{**data, "inputs": inputs})
        merged.add_edges_from((value.node, node) for value in inputs)
    merged.graph["outputs"] = [moved.get(value.node, value) for value in graph.graph["outputs"]]
    return merged


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the attributes of one projection that makes the outputs of all."""
    outputs = tuple(shape for part in parts for shape in part["op"].outputs)
    merged = {key: tuple(each for part in parts for each in part[key]) for key in ("weights", "blocks")}
    return {**parts[0], "op": Project(parts[0]["op"].fan_in, outputs), **merged}
