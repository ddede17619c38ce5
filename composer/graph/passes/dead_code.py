"""Remove operations that no output depends on."""

from __future__ import annotations

import networkx as nx

from blocks.core.graph import Graph, Loop
from composer.graph.walk import operations


def dead_code(graph: Graph) -> Graph:
    """Return the graph without operations that no output needs, here and in the loops below.

    Inputs stay, and so do the weights that lost their user only with it removed.
    """
    outputs = {value.node for value in graph.graph["outputs"]}
    alive = outputs.union(graph.graph["inputs"], *(nx.ancestors(graph, node) for node in outputs))
    for _, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            operation.body = dead_code(operation.body)
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
