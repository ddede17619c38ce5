"""Remove operations that no output depends on."""

from __future__ import annotations

from blocks.ir.graph import Graph, Loop
from blocks.ir.walk import operations


def dead_code(graph: Graph) -> Graph:
    """Return the graph without operations that no output needs, here and in the loops below.

    Inputs stay, but for what a loop takes from outside and does not read; weights go with their last user.
    """
    alive = {*graph.graph["inputs"], *(value.node for value in graph.graph["outputs"])}
    for node, operation, data in reversed(list(operations(graph))):
        if isinstance(operation, Loop):
            operation.body = dead_code(operation.body)
            if unread := _unread(operation.body):
                graph.leave(node, unread)
        if node in alive:
            alive.update(value.node for value in data["inputs"])
    if len(alive) == len(graph):
        return graph
    # in the order they run, which a subgraph of networkx does not promise
    kept = Graph(**graph.graph)
    for node, _, data in operations(graph):
        if node in alive:
            kept.add_node(node, **data)
            kept.add_edges_from((value.node, node) for value in data["inputs"])
    used = {name for _, _, data in operations(kept) for name in data["weights"]}
    kept.graph["weights"] = {name: weight for name, weight in graph.graph["weights"].items() if name in used}
    return kept


def _unread(body: Graph) -> list[int]:
    """Take from a loop's body what it got from outside and does not read; return where that stood."""
    inputs = body.graph["inputs"]
    returned = {value.node for value in body.graph["outputs"]}
    unread = [
        position
        for position, name in enumerate(inputs)
        if position >= body.graph["carried"] and not body.out_degree(name) and name not in returned
    ]
    gone = {inputs[position] for position in unread}
    body.remove_nodes_from(gone)
    body.graph["inputs"] = [name for name in inputs if name not in gone]
    return unread
