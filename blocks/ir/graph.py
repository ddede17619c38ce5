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
    """Return `name`, or where that is taken `name_2`, `name_3`, ..."""
    names = chain([name], (f"{name}_{number}" for number in count(2)))
    return next(each for each in names if each not in taken)


class Choice(NamedTuple):
    """A kernel and the reason it was chosen."""

    kernel: Kernel
    why: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operation at its place in a graph. A pass replaces nodes; it never changes one.

    Attributes:
        op: the operation.
        inputs: the values that it reads, in order.
        weights: names of its weights in the graph.
        blocks: names of the blocks that it belongs to; "" is the model itself.
        types: types of its outputs, filled in by type inference.
        choice: its kernel and why, filled in when kernels are chosen.
        recompute: whether it runs again in the backward pass.
        parts: the operations that a fused one stands for, by name, in the order they ran; else empty.
        active: the steps of the loop around it at which it runs; None is all of them.
        values: the values of the graph as lowered that its outputs are, where they are not its own.
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
        """Return what the operation keeps for its backward pass: all it reads and makes unless it says."""
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
    """Return the values of the graph as lowered that the outputs of a node are, in order."""
    return node.values or tuple(Value(name, number) for number in range(len(node.types)))


class Graph(_DiGraph):
    """Nodes by name, in the order they run; an edge wherever one reads another's output.

    Attributes:
        inputs: names of the nodes that values come in through.
        outputs: the values it returns.
        carried: how many inputs and outputs, first, go from step to step; 0 in the model's own graph. Further
            outputs of a loop's body are collected: the loop returns a tuple with the value of each step.
        weights: every weight by its name here.
        ties: names of weights that share another's tensor, with that one's name.
        reported: names of the scalars that training logs, which the model's own graph returns between its
            logits and its loss.
        handed: how many further values it returns before its loss, for the second pass.
        second: the graph of a second pass over the same batch, with the same weights, whose loss is added in
            training. Its last inputs are what the first pass hands over.
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
        found: Node = self.nodes[name]["node"]
        return found

    def type_of(self, value: Value) -> TensorType:
        """Return the type of a value."""
        return self.node(value.node).types[value.output]

    def loop(self, name: str) -> Loop:
        """Return the loop of a name."""
        operation = self.node(name).op
        assert isinstance(operation, Loop), f"{name} is no loop"
        return operation

    def put(self, name: str, node: Node) -> None:
        """Add a node, or put it in the place of the one that has its name; edges follow its inputs."""
        makers = dict.fromkeys(value.node for value in node.inputs)
        if name in self:
            self.remove_edges_from(
                [(maker, name) for maker in self.predecessors(name) if maker not in makers]
            )
        self.add_node(name, node=node)
        self.add_edges_from((maker, name) for maker in makers)

    def replace(self, name: str, **changes: Any) -> None:
        """Change fields of the node of a name."""
        node = dataclasses.replace(self.node(name), **changes)
        if "inputs" in changes:
            self.put(name, node)
        else:
            self.nodes[name]["node"] = node

    def leave(self, name: str, positions: Collection[int]) -> None:
        """Take the inputs at some positions from a node."""
        inputs = self.node(name).inputs
        kept = tuple(value for position, value in enumerate(inputs) if position not in positions)
        self.replace(name, inputs=kept)

    def readers(self, value: Value) -> list[str]:
        """Return the names of the nodes that read a value, in the order they run."""
        found = {name for name in self.successors(value.node) if value in self.node(name).inputs}
        return [name for name in self if name in found]

    def empty(self) -> Graph:
        """Return a graph of the same inputs, outputs and weights without nodes and second pass."""
        made = Graph(self.inputs, self.outputs, self.carried, self.weights, self.ties)
        made.reported, made.handed = self.reported, self.handed
        return made

    @property
    def trained(self) -> list[Value]:
        """The outputs of the model's own graph that training makes: what it hands over, and the loss."""
        return self.outputs[len(self.outputs) - 1 - self.handed :]

    def copy(self, as_view: bool = False) -> Graph:
        """Return a graph of the same nodes, which are values and stay as they are."""
        assert not as_view, "a graph of operations has no views"
        made = self.empty()
        for name in self:
            made.put(name, self.node(name))
        return made


@dataclass(frozen=True)
class Loop(SavesNothing, Operation):
    """A stage: its body runs `trips` times; with `tied` weights they are one set, else one per trip.

    `index` names the step's number in affine indices. With `last` gradients go through that many steps at the
    end only, all of them where it is None; the steps before run without.
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
        """The number of steps, first, that run without gradients."""
        return 0 if self.last is None else largest(0, self.trips - self.last)

    def passes(self, output: int) -> int | None:
        """A skipped loop hands on the values it would have carried."""
        return output if output < self.body.carried else None

    def describe(self) -> str:
        """Return `recur x 8` or `stack x 8`."""
        return f"{'recur' if self.tied else 'stack'} x {self.trips}"


@dataclass(frozen=True)
class Segment(Loop):
    """Successive steps of a loop at which the same nodes are active, for cost estimates.

    Attributes:
        origin: name of the loop's node.
        first: number of its first step in the loop.
        used_before: names, with those of the loops in it, of nodes that ran in earlier segments.
        used_after: likewise of weights and inputs that later segments use.
        frozen: whether these steps run without gradients.
    """

    origin: str
    first: int
    used_before: frozenset[str]
    used_after: frozenset[str]
    frozen: bool = False
