"""Which operations run again in the backward pass so that training fits into memory, and what that costs."""

from __future__ import annotations

from blocks.core.graph import Graph
from blocks.core.operation import At
from composer.costs.kept import Kept, kept
from composer.costs.precision import FULL, Precision
from composer.graph.walk import Place


def recompute_flops(graph: Graph, length: int, size: Precision = FULL, *, full_mask: bool = False) -> float:
    """Return the FLOPs per token of the operations that run again, at sequences of `length`."""
    return _flops(graph, Place(), kept(graph, Place(), length, size), length, full_mask)


def _flops(graph: Graph, place: Place, here: Kept, length: int, full_mask: bool) -> float:
    at = At(length, place.trips, full_mask=full_mask)
    total = 0.0
    for node, data in graph.nodes(data=True):
        operation = data["op"]
        if node in here.reruns:
            total += operation.flops(at) * place.executions
        elif node in here.loops:
            inner = place.inside(node, operation)
            total += _flops(operation.body, inner, here.loops[node], length, full_mask)
    return total
