"""Remove operations that no output depends on."""

from __future__ import annotations

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import Value
from blocks.ir.walk import operations


def dead_code(graph: Graph) -> Graph:
    """Remove the operations that no output needs, here and in the loops below; return the graph.

    Inputs stay, but for what a loop takes from outside and does not read; weights go with their last user.
    Of what a loop returns the carried values stay, and the collected ones that something reads.
    """
    needed = {*graph.inputs, *(value.node for value in graph.outputs)}
    # readers come after makers: in reverse, all that read a node have been seen when its turn comes
    for name in reversed([*graph]):
        if name not in needed:
            graph.remove_node(name)
            continue
        operation = graph.node(name).op
        if isinstance(operation, Loop):
            _drop_unread_outputs(graph, name, operation.body)
            dead_code(operation.body)
            if unread := _unread(operation.body):
                graph.leave(name, unread)
        needed.update(value.node for value in graph.node(name).inputs)
    used = {name for _, _, node in operations(graph) for name in node.weights}
    graph.weights = {name: weight for name, weight in graph.weights.items() if name in used}
    return graph


def _drop_unread_outputs(graph: Graph, name: str, body: Graph) -> None:
    """Remove the collected values that nothing reads from the outputs of a loop."""
    read = {value for reader in graph.successors(name) for value in graph.node(reader).inputs}
    read.update(graph.outputs)
    outputs = range(len(body.outputs))
    stay = [number for number in outputs if number < body.carried or Value(name, number) in read]
    if len(stay) == len(outputs):
        return
    moved = {Value(name, number): Value(name, place) for place, number in enumerate(stay)}
    for reader in [*graph.successors(name)]:
        inputs = tuple(moved.get(value, value) for value in graph.node(reader).inputs)
        graph.replace(reader, inputs=inputs)
    graph.outputs = [moved.get(value, value) for value in graph.outputs]
    body.outputs = [body.outputs[number] for number in stay]
    if types := graph.node(name).types:
        graph.replace(name, types=tuple(types[number] for number in stay))


def _unread(body: Graph) -> list[int]:
    """Remove unused captured inputs from a loop's body; return their positions."""
    returned = {value.node for value in body.outputs}
    unread = [
        position
        for position, name in enumerate(body.inputs)
        if position >= body.carried and not body.out_degree(name) and name not in returned
    ]
    gone = {body.inputs[position] for position in unread}
    body.remove_nodes_from(gone)
    body.inputs = [name for name in body.inputs if name not in gone]
    return unread
