"""Fuses the residual sum that ends a step of a loop with the norm that begins the next step."""

from __future__ import annotations

from collections.abc import Collection

from blocks.ir.costs import CostContext
from blocks.ir.graph import Graph, Loop
from blocks.ir.kernel import Target
from blocks.ir.operation import LoopIndex, Value
from blocks.ir.walk import operations
from blocks.primitives.fused_operations import PrecomputedNorm, ResidualSum
from blocks.primitives.operations import Input, Norm
from composer.graph.passes.choose_kernels import Kernels, unfit


def norm_ahead(
    graph: Graph, target: Target, kernels: Kernels = "auto", kept: Collection[str] = (), path: str = ""
) -> Graph:
    """Let sums at the end of a loop's steps make the first norm of the next; return the graph.

    Only in loops with tied weights, all of whose steps have gradients: the norm's gain is that of every step,
    and a state without gradients would take the gain's with it. Left alone are norms that run again in the
    backward pass, and values whose places are `kept`. With `reference` nothing changes.
    """
    if kernels == "reference":
        return graph
    for name, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            inside = f"{path}{name}."
            norm_ahead(operation.body, target, kernels, kept, inside)
            if operation.tied and operation.last is None:
                _across_steps(operation, target, {each.removeprefix(inside) for each in kept})
    return graph


def _across_steps(loop: Loop, target: Target, kept: Collection[str]) -> None:
    body = loop.body
    for position, name in enumerate(body.inputs[: body.carried]):
        made = body.outputs[position]
        norms = [each for each in body.readers(Value(name)) if _norms(body, each, kept)]
        if norms and _adds(body, made, kept):
            _fuse(loop, made.node, norms[0], target)


def _norms(body: Graph, name: str, kept: Collection[str]) -> bool:
    node = body.node(name)
    plain = type(node.op) is Norm and len(node.op.shape) == 1
    return plain and node.active is None and not node.recompute and name not in kept


def _adds(body: Graph, value: Value, kept: Collection[str]) -> bool:
    node = body.node(value.node)
    return isinstance(node.op, ResidualSum) and node.active is None and value.node not in kept


def _fuse(loop: Loop, add: str, norm: str, target: Target) -> None:
    """Put the pair in the place of a sum and a norm, where their kernels fit."""
    body = loop.body
    total, shape = body.node(add), body.type_of(Value(add)).shape
    narrow = target.dtype != "float32" and _one_product_reads(body, norm)
    index = LoopIndex(strides=((loop.index, 1),))
    assert isinstance(total.op, ResidualSum)
    ahead, given = total.op.before_norm(narrow, index, loop.trips - 1), PrecomputedNorm(shape, narrow)
    if ahead is None or any(unfit(each.kernels[0], each, target) for each in (ahead, given)):
        return
    if loop.trips == 1:  # asked last: costs that are traced without a GPU hold for any number of steps
        return
    body.replace(add, op=ahead, weights=(*body.node(norm).weights, *total.weights))
    types = given.types([body.type_of(value) for value in body.node(norm).inputs])
    body.replace(norm, op=given, types=types)


def _one_product_reads(body: Graph, name: str) -> bool:
    """Return whether a value goes to a single product, which would cast it."""
    readers = body.readers(Value(name))
    if len(readers) != 1 or Value(name) in body.outputs:
        return False
    reader = body.node(readers[0])
    once = reader.inputs.count(Value(name)) == 1 and not isinstance(reader.op, Loop | Input)
    return once and reader.op.works_in(CostContext(1, compute_bytes=2)) == "compute"
