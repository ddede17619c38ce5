"""The graph of operations: a networkx graph of typed nodes, and the loop, whose body is one. Torch-free."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from typing import TYPE_CHECKING, Any, NamedTuple

import networkx as nx

from blocks.ir.costs import CostContext, SavedTensors, SavesNothing
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest
from blocks.ir.operation import Operation, Value, Weight
from blocks.ir.steps import Steps
from blocks.ir.tensor_type import TensorType

if TYPE_CHECKING:
    _DiGraph = nx.DiGraph[str]
else:
    _DiGraph = nx.DiGraph


def fresh(name: str, taken: Container[object]) -> str:
    """Return `name`, or the first of `name_2`, `name_3`, ... that is not taken."""
    names = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(each for each in names if each not in taken)


class Choice(NamedTuple):
    """A kernel and the reason it was chosen."""

    kernel: Kernel
    why: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a graph. Nodes are immutable; passes replace them.

    Attributes:
        op: the operation.
        inputs: the values that it reads, in order.
        weights: names of its weights in the graph.
        blocks: names of the blocks that it belongs to; "" for the model itself.
        types: types of its outputs, set by type inference.
        choice: its kernel and the reason for it, set when kernels are chosen.
        recompute: whether it runs again in the backward pass.
        parts: for a fused operation the original ones, by name, in execution order; else empty.
        active: the steps of the enclosing loop at which it runs; None for all.
        values: the values of the graph before fusion that its outputs are, if they differ from its own.
    """

    op: Operation
    inputs: tuple[Value, ...] = ()
    weights: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ("",)
    types: tuple[TensorType, ...] = ()
    choice: Choice | None = None
    recompute: bool = False
    parts: Mapping[str, Operation] = field(default_factory=dict)
    active: Steps | None = None
    values: tuple[Value, ...] = ()

    def saved(self, at: CostContext) -> SavedTensors:
        """Return the tensors saved for the backward pass, by default all inputs and outputs."""
        saved = self.op.saved(at)
        if saved is not None:
            return saved
        return SavedTensors(tuple(range(len(self.inputs))), tuple(range(len(self.types))))

    @property
    def kernel(self) -> Kernel:
        """The chosen kernel."""
        assert self.choice is not None, f"{self.op.describe()}: no kernel has been chosen"
        return self.choice.kernel


def originals(name: str, node: Node) -> tuple[Value, ...]:
    """Return the values of the graph before fusion that the outputs of a node are, in order."""
    return node.values or tuple(Value(name, number) for number in range(len(node.types)))


class Graph(_DiGraph):
    """Nodes by name, in execution order, with an edge from each node to the readers of its outputs.

    Attributes:
        inputs: names of the input nodes.
        outputs: the values it returns.
        carried: the number of leading inputs and outputs that pass from step to step; 0 in the model's graph.
            Further outputs of a loop's body are collected: the loop returns a tuple with one value per step.
        weights: every weight by its name in this graph.
        ties: names of weights that share another weight's tensor, with the name of that weight.
        reported: names of the scalars that training logs; the model's graph returns them between its logits
            and its loss.
        handed: the number of values that the model's graph returns for the second pass, before its loss.
        second: the graph of a second pass over the same batch with the same weights, whose loss is added in
            training. Its last inputs are the `handed` values of the first pass.
    """

    def __init__(
        self,
        inputs: Sequence[str] = (),
        outputs: Sequence[Value] = (),
        carried: int = 0,
        weights: Mapping[str, Weight] | None = None,
        ties: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs, self.carried = [*inputs], [*outputs], carried
        self.weights, self.ties = dict(weights or {}), dict(ties or {})
        self.reported: tuple[str, ...] = ()
        self.handed = 0
        self.second: Graph | None = None

    def node(self, name: str) -> Node:
        """Return the node of a name."""
        node: Node = self.nodes[name]["node"]
        return node

    def type_of(self, value: Value) -> TensorType:
        """Return the type of a value."""
        return self.node(value.node).types[value.output]

    def loop(self, name: str) -> Loop:
        """Return the loop of a name."""
        operation = self.node(name).op
        assert isinstance(operation, Loop), f"{name} is no loop"
        return operation

    def put(self, name: str, node: Node) -> None:
        """Add a node, or replace the one of the same name; edges follow its inputs."""
        makers = dict.fromkeys(value.node for value in node.inputs)
        if name in self:
            self.remove_edges_from(
                [(maker, name) for maker in self.predecessors(name) if maker not in makers]
            )
        self.add_node(name, node=node)
        self.add_edges_from((maker, name) for maker in makers)

    def replace(self, name: str, **changes: Any) -> None:
        """Replace the node of a name by one with some fields changed."""
        node = dataclasses.replace(self.node(name), **changes)
        if "inputs" in changes:
            self.put(name, node)
        else:
            self.nodes[name]["node"] = node

    def leave(self, name: str, positions: Collection[int]) -> None:
        """Remove the inputs at some positions from a node."""
        inputs = self.node(name).inputs
        kept = tuple(value for position, value in enumerate(inputs) if position not in positions)
        self.replace(name, inputs=kept)

    def readers(self, value: Value) -> list[str]:
        """Return the names of the nodes that read a value, in the order they run."""
        readers = {name for name in self.successors(value.node) if value in self.node(name).inputs}
        return [name for name in self if name in readers]

    def empty(self) -> Graph:
        """Return a graph with the same inputs, outputs and weights, but no nodes and no second pass."""
        made = Graph(self.inputs, self.outputs, self.carried, self.weights, self.ties)
        made.reported, made.handed = self.reported, self.handed
        return made

    @property
    def trained(self) -> list[Value]:
        """The outputs of the model's graph in training: values for the second pass, and the loss."""
        return self.outputs[len(self.outputs) - 1 - self.handed :]

    def copy(self, as_view: bool = False) -> Graph:
        """Return a graph of the same nodes, which are immutable."""
        assert not as_view, "a graph of operations has no views"
        made = self.empty()
        for name in self:
            made.put(name, self.node(name))
        return made


@dataclass(frozen=True)
class Loop(SavesNothing, Operation):
    """A stage: its body runs `trips` times, with one set of weights (`tied`) or one per trip.

    Attributes:
        index: the name of the step's number in a `LoopIndex`.
        trips: the number of steps.
        tied: whether the steps share their weights.
        body: the graph of one step.
        last: the number of steps, at the end, that gradients go through; None for all.
    """

    index: str
    trips: int
    tied: bool
    body: Graph
    last: int | None = field(default=None, kw_only=True)

    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the types of the carried values, then of the collected ones."""
        carried = self.body.carried
        collected = map(self.body.type_of, self.body.outputs[carried:])
        return (
            *inputs[:carried],
            *(TensorType((self.trips, *each.shape), each.element, "steps") for each in collected),
        )

    @property
    def without_gradients(self) -> int:
        """The number of leading steps that run without gradients."""
        return 0 if self.last is None else largest(0, self.trips - self.last)

    def passthrough(self, output: int) -> int | None:
        """Pass on the carried values unchanged."""
        return output if output < self.body.carried else None

    def describe(self) -> str:
        """Return `recur x 8` or `stack x 8`."""
        return f"{'recur' if self.tied else 'stack'} x {self.trips}"


@dataclass(frozen=True)
class Segment(Loop):
    """Consecutive steps of a loop with the same active nodes, for cost estimates.

    Attributes:
        origin: the name of the loop's node.
        first: the number of its first step in the loop.
        used_before: names of nodes that ran in earlier segments, those of inner loops included.
        used_after: names of weights and inputs that later segments use, likewise.
        frozen: whether these steps run without gradients.
    """

    origin: str
    first: int
    used_before: frozenset[str]
    used_after: frozenset[str]
    frozen: bool = False
