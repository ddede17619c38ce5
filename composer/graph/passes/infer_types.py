"""Infers the type of every value, and checks the shapes of weights."""

from __future__ import annotations

from blocks.ir.graph import Graph, Loop
from blocks.ir.tensor_type import TensorType
from blocks.ir.walk import operations
from blocks.primitives.operations import Input


def infer_types(graph: Graph) -> Graph:
    """Set `types` on every node, here and in the loops below; ValueError if operations do not fit."""
    for name, operation, node in operations(graph):
        inputs = [graph.type_of(value) for value in node.inputs]
        if isinstance(operation, Loop):
            _infer_body(name, operation, inputs)
        declared = tuple(graph.weights[weight].shape for weight in node.weights)
        if declared != operation.weight_shapes():
            raise ValueError(f"{name}: weights are {declared}, expected {operation.weight_shapes()}")
        graph.replace(name, types=operation.types(inputs))
    return graph


def _infer_body(name: str, loop: Loop, inputs: list[TensorType]) -> None:
    """Infer types in the body of a loop; ValueError if a step changes the type of a carried value."""
    for each, type in zip(loop.body.inputs, inputs, strict=True):
        loop.body.replace(each, op=Input(type))
    infer_types(loop.body)
    carried = loop.body.carried
    for start, returned in zip(inputs[:carried], loop.body.outputs[:carried], strict=True):
        if (made := loop.body.type_of(returned)) != start:
            raise ValueError(f"{name}: a step returns {made} where it is given {start}")
