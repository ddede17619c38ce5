"""Fuses operations with the producers of their inputs where a kernel does both."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from dataclasses import replace

from blocks.ir.costs import CostContext
from blocks.ir.graph import Graph, Loop, Node, originals
from blocks.ir.kernel import Target
from blocks.ir.operation import Operation, Value
from blocks.ir.walk import operations
from blocks.primitives.operations import Input
from composer.graph.passes.choose_kernels import Kernels, unfit


def fuse(
    graph: Graph,
    target: Target,
    kernels: Kernels = "auto",
    apart: bool = False,
    kept: Collection[str] = (),
    path: str = "",
) -> Graph:
    """Fuse operations wherever the fused one's first kernel fits the target, or pays; return the graph.

    A fused operation has the name of the one that absorbed, all their blocks, and in `parts` the operations
    that it stands for, by name, in the order they ran. With `reference` nothing is fused, with `apart` only
    what belongs to one block. Values whose places are `kept`, such as `stages.0.1.norm`, are not fused away.
    """
    if kernels == "reference":
        return graph
    for name, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            fuse(operation.body, target, kernels, apart, kept, f"{path}{name}.")
    own = {place.removeprefix(path) for place in kept if place.startswith(path)}
    # the last first: whoever absorbs takes the longest chain
    for name in reversed([*graph]):
        while name in graph and _absorb(graph, name, target, apart, own):
            pass
    if target.dtype != "float32":
        _cast_outputs(graph)
    return graph


def _absorb(graph: Graph, name: str, target: Target, apart: bool, kept: Set[str]) -> bool:
    """Fuse a node with the producer of one of its inputs; return whether it was possible."""
    node = graph.node(name)
    if type(node.op).absorb is Operation.absorb:
        return False
    return any(
        _takes(graph, name, position, target, apart)
        for position, value in enumerate(node.inputs)
        if kept.isdisjoint(each.node for each in originals(value.node, graph.node(value.node)))
    )


def _takes(graph: Graph, name: str, position: int, target: Target, apart: bool) -> bool:
    node = graph.node(name)
    value = node.inputs[position]
    maker = graph.node(value.node)
    if isinstance(maker.op, Input | Loop) or value.output or node.inputs.count(value) > 1:
        return False
    if node.active != maker.active:
        return False
    if apart and name.rpartition(".")[0] != value.node.rpartition(".")[0]:
        return False
    readers = {*graph.successors(value.node)} - {name}
    shared = bool(readers) or any(each.node == value.node for each in graph.outputs)
    operation = node.op.absorb(position, maker.op, shared)
    if operation is None or not _pays(operation, target):
        return False
    inputs = tuple(
        maker.inputs[0] if each == value else each
        for each in node.inputs
        if each == value or each.node != value.node
    )
    read = operation.fused_inputs((*inputs, *maker.inputs[1:]))
    if read is None:
        return False
    inputs = read
    types = operation.types([graph.type_of(each) for each in inputs])
    own = len(node.types)
    hands_on = shared and len(types) > own
    if hands_on and any(_runs_before(graph, each, name) for each in readers):
        return False
    weights = (*node.weights, *maker.weights)
    assert tuple(graph.weights[each].shape for each in weights) == operation.weight_shapes(), name
    fused = replace(
        node,
        op=operation,
        inputs=inputs,
        weights=weights,
        types=types,
        blocks=tuple(dict.fromkeys((*maker.blocks, *node.blocks))),
        parts={**_parts(value.node, maker), **_parts(name, node)},
        values=(*originals(name, node), *(originals(value.node, maker) if hands_on else ())),
    )
    graph.put(name, fused)
    if hands_on:
        _rewire(graph, value.node, name, own)
    if hands_on or not shared:
        graph.remove_node(value.node)
    return True


def _pays(operation: Operation, target: Target) -> bool:
    """Return whether a kernel that is worth fusing fits the target."""
    return not all(unfit(kernel, operation, target) for kernel in operation.kernels[: operation.worth_fusing])


def _rewire(graph: Graph, maker: str, name: str, own: int) -> None:
    """Redirect all readers of a producer's outputs to the fused node, after its own outputs."""

    def moved(value: Value) -> Value:
        return Value(name, own + value.output) if value.node == maker else value

    for each in {*graph.successors(maker)} - {name}:
        graph.replace(each, inputs=tuple(map(moved, graph.node(each).inputs)))
    graph.outputs = [*map(moved, graph.outputs)]


def _cast_outputs(graph: Graph) -> None:
    """Let a fused operation return its output in the matmul precision where a single matmul reads it."""
    at = CostContext(1, compute_bytes=2)
    for name, _, node in list(operations(graph)):
        if not node.parts or Value(name) in graph.outputs:
            continue
        readers = [graph.node(each) for each in graph.readers(Value(name))]
        if len(readers) != 1 or readers[0].inputs.count(Value(name)) > 1:
            continue
        reader = readers[0].op
        if not isinstance(reader, Loop) and reader.works_in(at) == "compute":
            operation = node.op.cast_output()
            types = operation.types([graph.type_of(value) for value in node.inputs])
            graph.replace(name, op=operation, types=types)


def _runs_before(graph: Graph, first: str, second: str) -> bool:
    order = [*graph]
    return order.index(first) < order.index(second)


def _parts(name: str, node: Node) -> Mapping[str, Operation]:
    """Return the operations that were fused into a node."""
    return node.parts or {name: node.op}
