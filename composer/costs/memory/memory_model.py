"""The memory model: the graph and the bodies of its loops with their bytes, ready for the replay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from blocks.ir.graph import Graph, Loop, Segment
from blocks.ir.numbers import total
from blocks.ir.operation import Value
from blocks.ir.walk import Place, operations, passes
from blocks.kernels.slots import DepthCache
from blocks.primitives.operations import Input
from composer.costs.memory.operation_memory import Batch, Step, step_of
from composer.costs.memory.saved_tensors import (
    Kept,
    Sizes,
    bytes_of,
    counted_inside,
    element_bytes,
    kept,
    returns_kept,
    storage,
)
from composer.graph.passes.active_steps import costed, nodes


@dataclass(frozen=True, eq=False)
class Body:
    """The model's graph or the body of one of its loops.

    Attributes:
        index: the name of the loop's index; "" for the graph. `trips` and `tied` are the loop's as well.
        steps: its operations in order; `makers` are the same by node.
        sizes: bytes of an element of each value.
        frees: bytes of kept values, by the number of the step whose backward pass is the last to read them.
        frees_state: the same of carried states that are kept as input, but not as output.
        drops: recomputed values, by the number of that step.
        remade: bytes of each recomputed value.
        takers: what reads each recomputed value: numbers of `drops`, and nodes of recomputed operations.
        kept: the storages kept for the backward pass, without inputs of the graph.
        states: the outputs carried to the next trip that have gradients, each with its bytes.
        states_in_flight: bytes of carried states that are kept neither as input nor as output.
        keeps_state: bytes of carried states that are kept as input, but not as output.
        collected: the outputs collected at every trip, each with the bytes of one trip.
        collected_in_flight: bytes per trip of collected outputs that are not counted as kept in the body.
        constant: bytes that each execution keeps, without those that vary from trip to trip.
        weights: bytes of its trained weights, including those of inner loops.
        gradients: bytes of their gradients before they are widened.
        prepared, late: the sums of those of its steps and inner loops; see `Step`.
        slots: bytes of the depth slots that one execution makes.
        slot_gradients: bytes of their gradients.
        makes_slots: whether it makes any.
        used_after: the names of weights and slots that later segments of the loop use, and count, as well.
        frozen: whether it runs without gradients.
        inner: the bodies of inner loops, by node.
    """

    graph: Graph
    index: str
    trips: int
    tied: bool
    steps: tuple[Step, ...]
    makers: dict[str, Step]
    sizes: Sizes
    frees: dict[int, float]
    frees_state: dict[int, float]
    drops: dict[int, list[Value]]
    remade: dict[Value, float]
    takers: dict[Value, frozenset[int | str]]
    kept: frozenset[Value]
    states: tuple[tuple[Value, float], ...]
    states_in_flight: float
    keeps_state: float
    collected: tuple[tuple[Value, float], ...]
    collected_in_flight: float
    constant: float
    weights: float
    gradients: float
    prepared: float
    late: float
    slots: float
    slot_gradients: float
    makes_slots: bool
    used_after: frozenset[str]
    frozen: bool
    inner: dict[str, Body]


def bodies_of(graph: Graph, batch: Batch) -> list[Body]:
    """Return the graph of each pass of a training step, with the bodies of its loops, for the replay."""
    bodies: list[Body] = []
    for each in passes(costed(graph, batch.length)):
        # a second pass reads weights that are ready
        shared = _Shared(before=frozenset(nodes(each) if bodies else ()))
        keeps = kept(each, Place(), batch.length, batch.size)
        bodies.append(_body(each, None, Place(), keeps, batch, shared))
    return bodies


class _Shared(NamedTuple):
    """Names that a body shares with other segments of its loop; see `Segment`."""

    before: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()

    def inside(self, node: str, loop: Loop) -> _Shared:
        """Return the names shared by the body of a loop."""
        if not isinstance(loop, Segment):
            return _Shared(_below(self.before, node), _below(self.after, node))
        before, after = (_below(each, loop.origin) for each in self)
        return _Shared(before | loop.used_before, after | loop.used_after)


class _State(NamedTuple):
    """A carried value as it comes in and goes out: its bytes, and whether its input or its output is kept."""

    input: Value
    output: Value
    size: float
    keeps_input: bool
    keeps_output: bool


def _states(graph: Graph, sizes: Sizes, kept: Kept, batch: Batch) -> list[_State]:
    states = []
    for name, output in zip(graph.inputs[: graph.carried], graph.outputs, strict=False):
        value = Value(name)
        if graph.type_of(value).kind in ("token", "scalar"):
            kept_there = value in kept.values, returns_kept(graph, name, kept.values)
            states.append(_State(value, output, batch.tokens * bytes_of(graph, value, sizes), *kept_there))
    return states


def _below(names: frozenset[str], node: str) -> frozenset[str]:
    prefix = f"{node}."
    return frozenset(name.removeprefix(prefix) for name in names if name.startswith(prefix))


def _body(graph: Graph, loop: Loop | None, place: Place, kept: Kept, batch: Batch, shared: _Shared) -> Body:
    at = batch.at(place.trips)
    sizes = element_bytes(graph, at)
    nodes = [node for node, operation, _ in operations(graph) if not isinstance(operation, Input)]
    dies = _dies(graph, nodes, kept)
    steps = tuple(
        step_of(graph, node, at, sizes, kept, dies[node], batch, node in shared.before) for node in nodes
    )
    inner = {}
    for step in steps:
        if isinstance(each := step.operation, Loop):
            around, theirs = place.inside(step.node, each), shared.inside(step.node, each)
            inner[step.node] = _body(each.body, each, around, kept.loops[step.node], batch, theirs)
    states = _states(graph, sizes, kept, batch)
    inside = counted_inside(loop, kept) if loop else {}
    collected = [
        (value, batch.tokens * bytes_of(graph, value, sizes), number in inside)
        for number, value in enumerate(graph.outputs)
        if loop and number >= graph.carried
    ]
    # an embedding that is the head as well is one weight
    own = {name: size for step in steps for name, size in step.weights if name not in shared.after}
    copies = [(1 if each.tied else each.trips, each) for each in inner.values()]
    slots = [batch.tokens * op.elements() for _, op, _ in operations(graph) if isinstance(op, DepthCache)]
    values = frozenset(value for value in kept.values if not _is_input(graph, value))
    incoming = {each.input: each.size for each in states if each.keeps_input and not each.keeps_output}
    first = _needs(steps, values, incoming)
    frees: dict[int, float] = defaultdict(float)
    for value in sorted(values):
        frees[first[value]] = frees[first[value]] + batch.tokens * bytes_of(graph, value, sizes)
    frees_state: dict[int, float] = defaultdict(float)
    for value, size in incoming.items():
        if value in first:
            frees_state[first[value]] = frees_state[first[value]] + size
    made_again = [value for step in steps for value in step.made_again]
    drops: dict[int, list[Value]] = defaultdict(list)
    for value in made_again:
        if value in first:
            drops[first[value]].append(value)
    return Body(
        graph,
        loop.index if loop else "",
        loop.trips if loop else 1,
        loop.tied if loop else True,
        steps,
        {step.node: step for step in steps},
        sizes,
        frees,
        frees_state,
        drops,
        {value: batch.tokens * bytes_of(graph, value, sizes) for value in made_again},
        _takers(steps, made_again, first),
        values,
        tuple((state.output, state.size) for state in states if graph.type_of(state.output).is_float),
        total(state.size for state in states if not state.keeps_input and not state.keeps_output),
        total(incoming.values()),
        tuple((value, size) for value, size, _ in collected),
        total(size for _, size, counted in collected if not counted),
        total(step.needs.inside for step in steps if step.inside and not step.varies)
        + batch.tokens * total(bytes_of(graph, value, sizes) for value in sorted(values)),
        batch.size.weight * _own(graph, shared.after) + total(count * each.weights for count, each in copies),
        total(own.values()) + total(count * each.gradients for count, each in copies),
        total(step.prepared for step in steps) + total(count * each.prepared for count, each in copies),
        total(step.late for step in steps) + total(count * each.late for count, each in copies),
        total(at.compute_bytes * each for each in slots) + total(b.trips * b.slots for b in inner.values()),
        total(4 * each for each in slots) + total(b.trips * b.slot_gradients for b in inner.values()),
        bool(slots) or any(each.makes_slots for each in inner.values()),
        shared.after,
        place.frozen,
        inner,
    )


def _own(graph: Graph, used_after: frozenset[str]) -> float:
    """Return the number of a graph's own trained weights, without those counted by later segments."""
    own = {name: weight for name, weight in graph.weights.items() if name not in used_after}
    trained: float = total(weight.size for weight in own.values() if weight.trained)
    return trained


def _dies(graph: Graph, nodes: list[str], kept: Kept) -> dict[str, list[Value]]:
    """Map each operation to the storages that it is the last to read and that are not kept."""
    last: dict[Value, str] = {}
    held = ((node, graph.node(node).op) for node in nodes)
    ends = {each.origin: node for node, each in held if isinstance(each, Segment)}
    for node in nodes:
        data = graph.node(node)
        last.update({storage(graph, Value(node, output)): node for output in range(len(data.types))})
        read = (storage(graph, value) for value in data.inputs)
        # a loop holds what it is given until its last step
        until = ends.get(data.op.origin, node) if isinstance(data.op, Segment) else node
        last.update({value: until for value in read if not _is_input(graph, value)})
    # training asks the model for its loss, and what it hands to a second pass
    outputs = graph.outputs if graph.carried else graph.trained
    stay = kept.values | {storage(graph, value) for value in outputs}
    dies: dict[str, list[Value]] = defaultdict(list)
    for value, node in last.items():
        if value not in stay:
            dies[node].append(value)
    return dies


def _needs(
    steps: tuple[Step, ...], values: frozenset[Value], incoming: Collection[Value]
) -> dict[Value, int]:
    """Map each storage to the first step that needs it in its backward pass, which is the last to run."""
    first: dict[Value, int] = {}
    for number, step in enumerate(steps):
        held = (value for value in step.sources if step.again and (value in values or value in incoming))
        for value in (*step.reads, *held):
            first.setdefault(value, number)
        if step.inside or step.again:
            first.update(dict.fromkeys(step.keeps, number))
    # the last state of a loop whose states are read step by step goes with the others
    makers = {step.node: number for number, step in enumerate(steps)}
    return {value: makers[value.node] for value in values} | first


def _takers(
    steps: tuple[Step, ...], made_again: list[Value], first: dict[Value, int]
) -> dict[Value, frozenset[int | str]]:
    takers_of: dict[Value, set[int | str]] = {
        value: {first[value]} if value in first else set() for value in made_again
    }
    for step in steps:
        for value in step.sources if step.again else ():
            if value in takers_of:
                takers_of[value].add(step.node)
    return {value: frozenset(takers) for value, takers in takers_of.items()}


def _is_input(graph: Graph, value: Value) -> bool:
    return isinstance(graph.node(value.node).op, Input)
