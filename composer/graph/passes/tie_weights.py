"""Ties weights: a weight declared equal to another is removed, and its users read the other."""

from __future__ import annotations

from blocks.ir.graph import Graph
from blocks.ir.walk import operations


def tie_weights(graph: Graph) -> Graph:
    """Replace every use of a tied weight by the weight it shares.

    Raises:
        ValueError: the two differ in shape.
    """
    weights, ties = graph.weights, graph.ties
    for name, shared in ties.items():
        if weights[name].shape != weights[shared].shape:
            raise ValueError(f"{name} {weights[name].shape} is tied to {shared} {weights[shared].shape}")
        del weights[name]
    for name, _, node in operations(graph):
        if not ties.keys().isdisjoint(node.weights):
            graph.replace(name, weights=tuple(ties.get(weight, weight) for weight in node.weights))
    return graph
