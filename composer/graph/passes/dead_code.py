"""Remove operations that no output depends on."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx

from blocks.ir.graph import Graph, Loop
from blocks.ir.walk import operations


def dead_code(graph: Graph) -> Graph:
    """Return the graph without operations that no output needs, here and in the loops below.

    Inputs stay, but for what a loop takes from outside and does not read; weights go with their last user.
    """
    kept = graph.copy()
    for name, operation, _ in list(operations(kept)):
        if isinstance(operation, Loop):
            body = dead_code(operation.body)
            kept.replace(name, op=replace(operation, body=body))
            if unread := _unread(body):
                kept.leave(name, unread)
    returned = {value.node for value in kept.outputs}
    needed = returned.union(kept.inputs, *(nx.ancestors(kept, name) for name in returned))
    kept.remove_nodes_from({*kept} - needed)
    used = {name for _, _, node in operations(kept) for name in node.weights}
    kept.weights = {name: weight for name, weight in kept.weights.items() if name in used}
    return kept


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
