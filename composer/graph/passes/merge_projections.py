"""Merge projections that read the same input into one product with joined weights."""

from __future__ import annotations

from dataclasses import replace

from blocks.ir.graph import Graph, Loop, Node
from blocks.ir.operation import Value
from blocks.ir.steps import Steps
from blocks.ir.walk import operations
from blocks.primitives.operations import Project


def merge_projections(graph: Graph, apart: bool = False) -> Graph:
    """Leave one projection per input, here and in the loops below; return the graph.

    With `apart` projections of different blocks are not joined. Never joined are those active at different
    steps, and those with biases with those without.
    Only weights of the same stage are joined; their names stay, so checkpoints do not change.
    """
    groups: dict[tuple[Value, str, Steps | None, bool], list[str]] = {}
    for name, operation, node in operations(graph):
        if isinstance(operation, Loop):
            merge_projections(operation.body, apart)
        elif isinstance(operation, Project):
            place = name.rpartition(".")[0] if apart else ""
            groups.setdefault((node.inputs[0], place, node.active, operation.bias), []).append(name)
    moved: dict[str, Value] = {}
    for names in groups.values():
        if len(names) > 1:
            moved |= {name: Value(names[0], number) for number, name in enumerate(names)}
            joined = _joined([graph.node(name) for name in names])
            graph.put(names[0], replace(joined, values=tuple(map(Value, names))))
    for reader in {reader for name in moved for reader in graph.successors(name)}:
        inputs = tuple(moved.get(value.node, value) for value in graph.node(reader).inputs)
        graph.replace(reader, inputs=inputs)
    graph.remove_nodes_from({*moved} - {value.node for value in moved.values()})
    graph.outputs = [moved.get(value.node, value) for value in graph.outputs]
    return graph


def _joined(parts: list[Node]) -> Node:
    """Return the node of one projection that makes the outputs of all."""
    projections = [part.op for part in parts if isinstance(part.op, Project)]
    outputs = tuple(shape for each in projections for shape in each.outputs)
    return replace(
        parts[0],
        op=Project(projections[0].fan_in, outputs, projections[0].bias),
        # all weights, then all biases
        weights=tuple(name for each in zip(*(part.weights for part in parts), strict=True) for name in each),
        blocks=tuple(block for part in parts for block in part.blocks),
    )
