"""Outlines the parts of a step: each sublayer and each block becomes one operation with a body.

Only done while somebody watches the parts of a model (`composer.module.watch`): a body keeps other operations
from being merged and fused across its border.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from blocks.ir.costs import SavesNothing
from blocks.ir.graph import Graph, Loop, Node, fresh
from blocks.ir.operation import Operation, Value
from blocks.ir.walk import operations
from blocks.primitives.operations import Input


@dataclass
class Part(SavesNothing, Operation):
    """A part of a step called as one module `name`: its body, with local names."""

    name: str
    body: Graph

    recomputable = False

    def passthrough(self, output: int) -> int | None:
        """A skipped part passes on the same inputs as its operations."""
        value = self.body.outputs[output]
        while value.node not in self.body.inputs:
            node = self.body.node(value.node)
            position = node.op.passthrough(value.output)
            if position is None:
                return None
            value = node.inputs[position]
        return self.body.inputs.index(value.node)


def outline(graph: Graph) -> Graph:
    """Return the graph with the parts of every step outlined, parts within parts too.

    A part's first input is the first value that its operations read, a block's the normed state; its first
    output is that of its last operation.
    """
    outlined = graph.empty()
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop):
            data = replace(data, op=replace(operation, body=_grouped(outline(operation.body), steps=True)))
        outlined.put(node, data)
    return outlined


def slots_read(node: str, steps: bool = False) -> str:
    """Return the part that a node belongs to, or "": the first of its name's parts.

    Of the operations of a step (`steps`) only sublayers are parts, which go by their position.
    """
    part, dot, _ = node.partition(".")
    return part if dot and (part.isdigit() or not steps) else ""


def _grouped(graph: Graph, steps: bool = False) -> Graph:
    groups: dict[str, list[str]] = {}
    for node, operation, _ in operations(graph):
        if not isinstance(operation, Input) and (part := slots_read(node, steps)):
            groups.setdefault(part, []).append(node)
    # what belongs to a whole stage, such as its start, stands beside it
    loops = {name for name, operation, _ in operations(graph) if isinstance(operation, Loop)}
    groups = {part: nodes for part, nodes in groups.items() if part not in loops and _together(graph, nodes)}
    if not groups:
        return graph
    moved: dict[Value, Value] = {}
    outlined = graph.empty()
    ends = {nodes[-1]: (part, nodes) for part, nodes in groups.items()}
    inside = {node for nodes in groups.values() for node in nodes}
    for node, _, data in operations(graph):
        if node in ends:
            part, nodes = ends[node]
            body, inputs, made = _body(graph, part, nodes)
            # a block may be called like an operation beside it, such as `norm`
            name = fresh(part, ({*graph} - inside) | {*outlined})
            moved |= {value: Value(name, place) for place, value in enumerate(made)}
            types = tuple(map(graph.type_of, made))
            whole = Node(Part(part, body), inputs, types=types, active=data.active)
            _add(outlined, name, whole, moved)
        elif node not in inside:
            _add(outlined, node, data, moved)
    outlined.outputs = [moved.get(value, value) for value in graph.outputs]
    return outlined


def _together(graph: Graph, nodes: list[str]) -> bool:
    """Return whether nodes can run as one unit: nothing outside both depends on some and feeds others.

    They have to be active at the same steps.
    """
    if len({graph.node(node).active for node in nodes}) > 1:
        return False
    order = [node for node, operation, _ in operations(graph) if not isinstance(operation, Input)]
    start = order.index(nodes[0])
    return order[start : start + len(nodes)] == nodes


def _body(graph: Graph, part: str, nodes: list[str]) -> tuple[Graph, tuple[Value, ...], list[Value]]:
    """Return a part's graph, its inputs, and those of its values that are read outside."""
    own, prefix = set(nodes), f"{part}."
    made = [value for node in reversed(nodes) for value in _read_outside(graph, node, own)]
    weights = {
        name.removeprefix(prefix): weight for name, weight in graph.weights.items() if name.startswith(prefix)
    }
    body = Graph(weights=weights)
    inner: dict[Value, Value] = {}
    taken = {node.removeprefix(prefix) for node in nodes}
    for node in nodes:
        for value in graph.node(node).inputs:
            if value.node not in own and value not in inner:
                last = value.node.rpartition(".")[2]
                # stages go by their position, which is no name in code
                name = fresh("x" if last.isdigit() else last, {*body, *taken})
                type = graph.type_of(value)
                body.put(name, Node(Input(type), types=(type,)))
                body.inputs.append(name)
                inner[value] = Value(name)
    returned = {value.node for value in made}
    for node in nodes:
        data = graph.node(node)
        inside = replace(
            data,
            weights=tuple(name.removeprefix(prefix) for name in data.weights),
            inputs=tuple(
                inner.get(value) or Value(value.node.removeprefix(prefix), value.output)
                for value in data.inputs
            ),
            # what a part returns is there as a tensor
            recompute=data.recompute and node not in returned,
            active=None,
        )
        body.put(node.removeprefix(prefix), inside)
    body.outputs = [Value(value.node.removeprefix(prefix), value.output) for value in made]
    return _grouped(body), tuple(inner), made


def _read_outside(graph: Graph, node: str, own: set[str]) -> Iterator[Value]:
    read = {
        value for reader in graph.successors(node) if reader not in own for value in graph.node(reader).inputs
    }
    read |= {*graph.outputs}
    yield from sorted(value for value in read if value.node == node)


def _add(graph: Graph, name: str, node: Node, moved: dict[Value, Value]) -> None:
    inputs = tuple(moved.get(value, value) for value in node.inputs)
    graph.put(name, replace(node, inputs=inputs))
