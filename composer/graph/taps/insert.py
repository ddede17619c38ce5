"""Puts taps into a compiled graph, by the names that values have in the graph as lowered.

What the graph computes stays the same, bit for bit. A value inside a fused operation, which nothing makes
there, is computed beside it by the references of the operations that it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from blocks.ir.graph import Choice, Graph, Loop, Node, fresh, originals
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Value
from blocks.ir.walk import operations
from composer.graph.taps.names import STATE_IN, local_names, state_input
from composer.graph.taps.operation import Tap, uncounted


@dataclass(frozen=True)
class Taps:
    """The values to tap.

    Attributes:
        receiver: the number of the object that gets the values, from `register`.
        names: of the values that are tapped.
        replaced: those of them that are replaced, so operations that make them are not fused away.
    """

    receiver: int
    names: frozenset[str]
    replaced: frozenset[str] = frozenset()

    @property
    def replaced_nodes(self) -> frozenset[str]:
        """The places of the nodes that make the replaced values."""
        numbered = {name.rpartition(".")[0] for name in self.replaced if name.rpartition(".")[2].isdigit()}
        return self.replaced | numbered


def insert_taps(graph: Graph, plain: Graph, taps: Taps) -> Graph:
    """Return a compiled graph with taps, given the same graph as lowered. Its tokens are tapped always.

    Raises:
        ValueError: a value inside a fused operation needs others that nothing makes any more.
    """
    return _Tapped(graph, plain, taps, "", ()).made


class _Tapped:
    """One graph while taps are put into it; those of the loops below are put in on the way."""

    def __init__(self, graph: Graph, plain: Graph, taps: Taps, path: str, loops: tuple[str, ...]) -> None:
        self.graph, self.plain, self.taps, self.path, self.loops = graph, plain, taps, path, loops
        self.made = graph.empty()
        self.moved: dict[Value, Value] = {}
        self.copies: dict[Value, Value] = {}  # value of the graph as lowered -> value here
        for name, operation, node in operations(graph):
            inputs = tuple(self.moved.get(value, value) for value in node.inputs)
            if isinstance(operation, Loop):
                body = _Tapped(
                    operation.body,
                    plain.loop(name).body,
                    taps,
                    f"{path}{name}.",
                    (*loops, operation.index),
                )
                node = replace(node, op=replace(operation, body=body.made))
            self.made.put(name, replace(node, inputs=inputs))
            self._tap(name, node)
        self.made.outputs = [self.moved.get(value, value) for value in graph.outputs]
        if loops:
            self._tap_state()

    def _tap(self, name: str, node: Node) -> None:
        """Tap what a node makes, and what the operations that it stands for would make."""
        if isinstance(node.op, Loop):
            return
        values = originals(name, node)
        self.copies |= {value: Value(name, number) for number, value in enumerate(values)}
        inputs = self.graph.inputs
        if name in inputs:
            state = bool(self.loops) and state_input(self.graph) == Value(name)
            own = f"{self.path}{STATE_IN}" if state else name
            if (not self.loops and name == inputs[0]) or (state and own in self.taps.names):
                self._put(name, node, [Value(name)], [own])
            return
        beside: list[tuple[Value, str]] = []
        for number, value in enumerate(values):
            if (tap := self._name(value)) in self.taps.replaced:
                self._put(name, node, [Value(name, number)], [tap])
            elif tap:
                beside.append((Value(name, number), tap))
        for part in node.parts:
            for number in range(len(self.plain.node(part).types)):
                value = Value(part, number)
                if value not in values and (tap := self._name(value)):
                    beside.append((self._computed(value, node), tap))
        if beside:
            first = Value(name)
            tap = dict(beside).get(first, "")
            others = [(value, each) for value, each in beside if value != first]
            current = self.moved.get(first, first)
            values_read = [current, *(self.moved.get(value, value) for value, _ in others)]
            self._put(name, node, values_read, [tap, *(each for _, each in others)], first)

    def _name(self, value: Value) -> str:
        """Return the full name of a value if it is tapped, else ""."""
        types = self.plain.node(value.node).types
        name = f"{self.path}{local_names(value.node, types)[value.output]}"
        return name if name in self.taps.names else ""

    def _put(
        self, name: str, node: Node, read: list[Value], names: list[str], passed: Value | None = None
    ) -> None:
        """Add a tap that reads some values; readers of `passed`, by default the first, will read it."""
        passed = passed or read[0]
        operation = Tap(self.taps.receiver, tuple(names), self.loops)
        types = tuple(self.made.type_of(value) for value in read[:1])
        own = fresh(f"{name}_tap", {*self.graph, *self.made})
        self.made.put(
            own,
            Node(
                operation,
                tuple(read),
                types=types,
                blocks=node.blocks,
                choice=operation.choice,
                active=node.active,
            ),
        )
        self.moved[passed] = Value(own)

    def _computed(self, value: Value, node: Node) -> Value:
        """Return a value computed beside a fused node by the references of its parts."""
        if value in self.copies:
            computed = self.copies[value]
            return self.moved.get(computed, computed)
        if value.node not in node.parts:
            if value.node not in self.made:
                raise ValueError(
                    f"{self.path}{value.node}: it is read by a value inside a fused operation, and nothing "
                    "makes it any more; kernels='reference' makes all values"
                )
            return self.moved.get(value, value)
        plain = self.plain.node(value.node)
        inputs = tuple(self._computed(each, node) for each in plain.inputs)
        kernel = _uncounted(self.plain, plain)
        own = fresh(f"{value.node}_beside", {*self.graph, *self.made})
        beside = replace(
            plain,
            inputs=inputs,
            choice=Choice(kernel, "for a recorded value"),
            active=node.active,
        )
        self.made.put(own, beside)
        for number in range(len(plain.types)):
            self.copies[Value(value.node, number)] = Value(own, number)
        return Value(own, value.output)

    def _tap_state(self) -> None:
        """Tap the state that a step hands on."""
        name = self.path.removesuffix(".")
        if name not in self.taps.names or state_input(self.graph) is None:
            return
        state = self.made.outputs[0]
        operation = Tap(self.taps.receiver, (name,), self.loops)
        own = fresh("state_tap", {*self.graph, *self.made})
        types = (self.made.type_of(state),)
        self.made.put(own, Node(operation, (state,), types=types, choice=operation.choice))
        self.made.outputs = [Value(own) if value == state else value for value in self.made.outputs]


def _uncounted(graph: Graph, node: Node) -> Kernel:
    """Return the reference of a node's operation; where that counts a training pass, without counting."""
    kernel = node.op.kernels[-1]
    counters = [not graph.weights[name].saved for name in node.weights]
    if not any(counters):
        return kernel
    assert counters.index(True) == len(counters) - 1, "a counter is an operation's last weight"
    assert not kernel.prepare, "what prepares weights passes counters on"
    return replace(kernel, prepare=f"{uncounted.__module__}:uncounted", prepared=len(counters))
