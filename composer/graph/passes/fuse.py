"""Fuse operations: one takes over the work of what makes its input, where a kernel does both at once."""

from __future__ import annotations

from typing import Any

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import CostContext, Operation, Target, Value
from blocks.ir.walk import operations
from blocks.primitives.operations import Input
from composer.graph.passes.choose_kernels import Kernels, unfit


def fuse(graph: Graph, target: Target, kernels: Kernels = "auto", apart: bool = False) -> Graph:
    """Return the graph with operations fused wherever the fused one's first kernel fits the target.

    A fused operation has the name of the one that absorbed, all their blocks, and in `parts` the operations
    that it stands for, by name, in the order they ran. With `reference` nothing is fused, with `apart` only
    what belongs to one block.
    """
    if kernels == "reference":
        return graph
    for _, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            operation.body = fuse(operation.body, target, kernels, apart)
    fusing = _Fusing(graph, target, apart)
    # the last first: whoever absorbs takes the longest chain
    for node in reversed([*graph]):
        while node in fusing.nodes and fusing.absorb(node):
            pass
    if target.dtype != "float32":
        fusing.narrow()
    return fusing.done() if fusing.changed else graph


class _Fusing:
    """The nodes of a graph while they are fused, in the order they run.

    Attributes:
        changed: whether any were.
    """

    def __init__(self, graph: Graph, target: Target, apart: bool) -> None:
        self.graph, self.target, self.apart, self.changed = graph, target, apart, False
        self.nodes: dict[str, dict[str, Any]] = {node: {**data} for node, data in graph.nodes(data=True)}
        self.outputs: list[Value] = graph.graph["outputs"]
        self._readers: dict[str, set[str]] = {node: set() for node in self.nodes}
        for node in self.nodes:
            self._note(node)

    def absorb(self, node: str) -> bool:
        """Let a node absorb what makes one of its inputs; return whether it did."""
        if type(self.nodes[node]["op"]).absorb is Operation.absorb:
            return False
        return any(self._takes(node, position) for position in range(len(self.nodes[node]["inputs"])))

    def narrow(self) -> None:
        """Narrow what one product alone reads."""
        at = CostContext(1, compute_bytes=2)
        for node, data in self.nodes.items():
            if "parts" not in data or Value(node) in self.outputs:
                continue
            readers = self._reading(Value(node))
            if len(readers) != 1 or readers[0]["inputs"].count(Value(node)) > 1:
                continue
            reader = readers[0]["op"]
            if not isinstance(reader, Loop) and reader.works_in(at) == "compute":
                data["op"] = data["op"].cast_output()

    def done(self) -> Graph:
        """Return the graph that the nodes make."""
        fused = Graph(**{**self.graph.graph, "outputs": self.outputs})
        for node, data in self.nodes.items():
            fused.add_node(node, **data)
            fused.add_edges_from((value.node, node) for value in data["inputs"])
        return fused

    def _takes(self, node: str, position: int) -> bool:
        data = self.nodes[node]
        value = data["inputs"][position]
        made = self.nodes[value.node]
        if isinstance(made["op"], Input | Loop) or value.output:
            return False
        if data["inputs"].count(value) > 1:
            return False
        if self.apart and node.rpartition(".")[0] != value.node.rpartition(".")[0]:
            return False
        readers = self._readers[value.node] - {node}
        shared = bool(readers) or any(each.node == value.node for each in self.outputs)
        operation = data["op"].absorb(position, made["op"], shared)
        if operation is None or unfit(operation.kernels[0], operation, self.target):
            return False
        inputs = tuple(
            made["inputs"][0] if each == value else each
            for each in data["inputs"]
            if each == value or each.node != value.node
        )
        inputs += made["inputs"][1:]
        shapes = operation.shapes([self.nodes[each.node]["shapes"][each.output] for each in inputs])
        own = len(data["shapes"])
        hands_on = shared and len(shapes) > own
        if hands_on and any(self._before(each, node) for each in readers):
            return False
        weights = self.graph.graph["weights"]
        names = (*data["weights"], *made["weights"])
        assert tuple(weights[name].shape for name in names) == operation.weight_shapes(), node
        self._forget(node)
        self.nodes[node] = {
            **data,
            "op": operation,
            "inputs": inputs,
            "weights": names,
            "shapes": shapes,
            "blocks": tuple(dict.fromkeys((*made["blocks"], *data["blocks"]))),
            "parts": {**_parts(value.node, made), **_parts(node, data)},
        }
        self._note(node)
        if hands_on:
            self._rewire(value.node, node, own)
        if hands_on or not shared:
            self._forget(value.node)
            del self.nodes[value.node]
        self.changed = True
        return True

    def _rewire(self, maker: str, node: str, own: int) -> None:
        """Make all who read the outputs of a maker read those of a node, after its own."""

        def moved(value: Value) -> Value:
            return Value(node, own + value.output) if value.node == maker else value

        for each in self._readers[maker] - {node}:
            self._forget(each)
            data = self.nodes[each]
            self.nodes[each] = {**data, "inputs": tuple(map(moved, data["inputs"]))}
            self._note(each)
        self.outputs = [*map(moved, self.outputs)]

    def _note(self, node: str) -> None:
        """Enter a node with those it reads."""
        for value in self.nodes[node]["inputs"]:
            self._readers[value.node].add(node)

    def _forget(self, node: str) -> None:
        for value in self.nodes[node]["inputs"]:
            self._readers[value.node].discard(node)

    def _reading(self, value: Value) -> list[dict[str, Any]]:
        """Return the nodes that read a value."""
        readers = (self.nodes[node] for node in self._readers[value.node])
        return [data for data in readers if value in data["inputs"]]

    def _before(self, first: str, second: str) -> bool:
        order = [*self.nodes]
        return order.index(first) < order.index(second)


def _parts(node: str, data: dict[str, Any]) -> dict[str, Operation]:
    parts: dict[str, Operation] = data.get("parts", {node: data["op"]})
    return parts
