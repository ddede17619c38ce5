"""Give every value its shape, and check that weights have the shapes their operations call for."""

from __future__ import annotations

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import Shape
from blocks.ir.walk import operations
from blocks.primitives.operations import Input


def infer_shapes(graph: Graph) -> Graph:
    """Set `shapes` on every node, here and in the loops below; ValueError where operations do not fit."""
    shapes: dict[str, tuple[Shape, ...]] = {}
    weights = graph.weights
    for node, operation, data in list(operations(graph)):
        inputs = [shapes[value.node][value.output] for value in data.inputs]
        if isinstance(operation, Loop):
            for name, shape in zip(operation.body.inputs, inputs, strict=True):
                operation.body.replace(name, op=Input(shape))
            infer_shapes(operation.body)
        declared = tuple(weights[name].shape for name in data.weights)
        if declared != operation.weight_shapes():
            raise ValueError(f"{node}: weights are {declared}, expected {operation.weight_shapes()}")
        shapes[node] = operation.shapes(inputs)
        graph.replace(node, shapes=shapes[node])
    return graph
