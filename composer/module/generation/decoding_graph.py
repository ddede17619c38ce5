"""The graph of generation: the model's graph with decoding versions of operations that read other tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from blocks.ir.costs import SavesNothing
from blocks.ir.decoding import LOCAL
from blocks.ir.graph import Choice, Graph, Loop, Node, fresh
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation, Value
from blocks.ir.tensor_type import ORDER, Shape, TensorType
from blocks.ir.walk import Place, graphs, map_nodes, operations
from blocks.primitives.operations import Input, Project
from blocks.wiring.loss.cross_entropy.operations import HeadLoss
from composer.graph.passes.dead_code import dead_code
from composer.graph.passes.some_tokens import nodes_of_some


@dataclass(frozen=True)
class Next(SavesNothing, Operation):
    """The decoding version of an operation: it takes a `Past` after its inputs.

    Attributes:
        chosen_by: the place of the operation that chose its tokens; "" if it runs on all tokens.
    """

    operation: Operation
    place: str
    use: LoopIndex
    chosen_by: str = ""

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """The decoding function that the operation names."""
        function = self.operation.decoding_of_some if self.chosen_by else self.operation.decoding
        return (Kernel("decoding", function, "new tokens beside what is kept of others"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return those of the operation."""
        return self.operation.types(inputs[:-1])

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return those of the operation."""
        return self.operation.weight_shapes()

    def arguments(self) -> dict[str, Any]:
        """Return the operation's own, and the place and number of this execution."""
        own = {"chosen_by": self.chosen_by} if self.chosen_by else {}
        return {**self.operation.decoding_arguments(), "place": self.place, "use": self.use, **own}

    def passthrough(self, output: int) -> int | None:
        """Return that of the operation."""
        return self.operation.passthrough(output)


@dataclass(frozen=True)
class LastToken(SavesNothing, Operation):
    """The last of the new tokens: (x) -> x."""

    shape: Shape

    kernels = (Kernel("last_token", f"{__name__}:last_token", "a view"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the input's type."""
        return (inputs[0],)


def last_token(x: Tensor) -> Tensor:
    """Return the last token of x [batch, sequence, ...]: [batch, 1, ...]."""
    return x[:, -1:]


def decoding_graph(graph: Graph, output: Value) -> Graph:
    """Return a compiled graph that computes an output for new tokens; its last input, `past`, is a `Past`.

    Logits are computed for the last new token only.

    Raises:
        ValueError: the output depends on an operation without a decoding function.
    """
    needed = _needed(graph, output)
    if strange := "; ".join(_undecodable(needed)):
        raise ValueError(f"generation: expected operations that run token by token, got {strange}")
    made = _rewritten(needed, Place())
    maker = made.node(output.node)
    if isinstance(maker.op, Project | HeadLoss):
        x = maker.inputs[0]
        type_ = made.type_of(x)
        last = fresh("last_token", made)
        operation = LastToken(type_.shape)
        made.put(last, _chosen(Node(operation, (x,), types=(type_,))))
        made = _moved(made, output.node, last)
    return made


def undecodable(graph: Graph, output: Value) -> str:
    """Return the operations of an output that have no decoding function, as text; "" if there are none."""
    return "; ".join(_undecodable(_needed(graph, output)))


def _needed(graph: Graph, output: Value) -> Graph:
    """Return the graph of the nodes that an output depends on."""
    needed = map_nodes(graph, lambda node: node)
    needed.outputs, needed.reported = [output], ()
    return dead_code(needed)


def _undecodable(graph: Graph) -> Iterator[str]:
    for body, place in graphs(graph):
        path, some = place.path, nodes_of_some(body)
        for name, operation, _ in operations(body):
            if isinstance(operation, Loop | Input) or operation.decoding == LOCAL:
                continue
            if not (operation.decoding_of_some if name in some else operation.decoding):
                yield f"{path}{name} ({operation.describe()}), which does not say how it does"


def _rewritten(graph: Graph, place: Place) -> Graph:
    """Return the graph with decoding versions of operations that are not local to a token."""
    made = graph.empty()
    past = Value(fresh("past", graph))
    made.inputs.append(past.node)
    made.put(past.node, Node(Input(ORDER), types=(ORDER,)))
    path, some = place.path, nodes_of_some(graph)
    for name, operation, node in operations(graph):
        # there is no backward pass
        node = replace(node, recompute=False)
        if isinstance(operation, Loop):
            inside = place.inside(name, operation)
            loop = replace(operation, body=_rewritten(operation.body, inside))
            made.put(name, replace(node, op=loop, inputs=(*node.inputs, past)))
        elif isinstance(operation, Input) or operation.decoding == LOCAL:
            made.put(name, node)
        else:
            chosen_by = f"{path}{some[name]}" if name in some else ""
            following = Next(operation, f"{path}{name}", use_of(place), chosen_by)
            made.put(name, _chosen(replace(node, op=following, inputs=(*node.inputs, past))))
    return made


def use_of(place: Place) -> LoopIndex:
    """Return the number of an execution within a pass."""
    strides: list[tuple[str, int]] = []
    inner = 1
    for _, index in reversed(place.loops):
        strides.append((index, inner))
        inner *= place.trips[index]
    return LoopIndex(0, tuple(reversed(strides)))


def _chosen(node: Node) -> Node:
    (kernel,) = node.op.kernels
    return replace(node, choice=Choice(kernel, kernel.why))


def _moved(graph: Graph, name: str, last: str) -> Graph:
    """Return the graph with a node that reads `last`, which is moved before it."""
    made = graph.empty()
    for each, _, node in operations(graph):
        if each == name:
            made.put(last, graph.node(last))
            node = replace(node, inputs=(Value(last), *node.inputs[1:]))
        if each != last:
            made.put(each, node)
    return made
