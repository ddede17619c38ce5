"""Remove operations that no output depends on."""

from __future__ import annotations

import networkx as nx

from blocks.ir.graph import Graph, Loop
from blocks.ir.walk import operations


def dead_code(graph: Graph) -> Graph:
    """Remove the operations that no output needs, here and in the loops below; return the graph.

    Inputs stay, but for what a loop takes from outside and does not read; weights go with their last user.
    """
    for name, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            dead_code(operation.body)
            if unread := _unread(operation.body):
                graph.leave(name, unread)
    returned = {value.node for value in graph.outputs}
    needed = returned.union(graph.inputs, *(nx.ancestors(graph, name) for name in returned))
    if dead := {*graph} - needed:
        graph.remove_nodes_from(dead)
        used = {name for _, _, node in operations(graph) for name in node.weights}
        graph.weights = {name: weight for name, weight in graph.weights.items() if name in used}
    return graph


def _unread(body: Graph) -> list[int]:
    """Take from a loop's body what it got from outside and does not read; return where that stood."""
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
