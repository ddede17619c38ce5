"""Tensors saved for the backward pass at the end of the forward pass, and those recomputed.

Operations declare the values that their backward pass needs and the bytes they save internally
(`Operation.saved`). An operation marked `recompute` saves nothing itself: if its output or its internal
tensors are needed, it runs again from its inputs, which are needed instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from blocks.ir.costs import CostContext, SavedTensors
from blocks.ir.graph import Graph, Loop
from blocks.ir.numbers import total
from blocks.ir.operation import Operation, Value
from blocks.ir.steps import OneStep
from blocks.ir.walk import Place, operations, passes
from composer.costs.base.precision import Precision
from composer.graph.passes.active_steps import costed

Sizes = Mapping[Value, int]


class Kept(NamedTuple):
    """The tensors that a graph saves at each of its executions.

    Attributes:
        values: what is kept, by storage; an input of a body among them is kept by the graph around it at the
            first trip, or where it is the same at every trip.
        inside: what unmarked operations keep that no other sees, copies of values in another precision
            included.
        reruns: marked operations that run again, and what they then save internally.
        loops: the same for the loops of this graph, by node.
    """

    values: frozenset[Value]
    inside: dict[str, SavedTensors]
    reruns: dict[str, SavedTensors]
    loops: dict[str, Kept]


def place_at(
    trips: Mapping[str, int | OneStep], length: int, size: Precision, tokens: int = 1
) -> CostContext:
    """Return the place at which costs are counted; `tokens` are those of a micro-batch."""
    return CostContext(length, trips, size.stream, size.compute, size.weight, size.device, tokens=tokens)


def kept(graph: Graph, place: Place, length: int, size: Precision) -> Kept:
    """Return the values saved by the operations of a graph and of its loops."""
    at = place_at(place.trips, length, size)
    sizes = element_bytes(graph, at)
    needed: set[Value] = set()  # for the backward pass
    held: set[Value] = set()  # of these, what is kept whether its maker is marked or not
    result = Kept(frozenset(), {}, {}, {})
    # in reverse order, all readers of a value come before its producer
    for node, operation, data in reversed(list(operations(graph))):
        sources = [storage(graph, value) for value in data.inputs]
        if isinstance(operation, Loop):
            around = place.inside(node, operation)
            inner = _nothing(operation.body) if around.frozen else kept(operation.body, around, length, size)
            result.loops[node] = inner
            names = operation.body.inputs
            held.update(
                source
                for source, name in zip(sources, names, strict=True)
                if Value(name) in inner.values and graph.type_of(source).kind != "depth_cache"
            )
            inside = counted_inside(operation, inner)
            # of a state that every step keeps as it comes in, the last one is kept here
            needed.update(
                Value(node, state)
                for number, state in inside.items()
                if Value(node, number) in needed and state is not None
            )
            within = {Value(node, number) for number, state in inside.items() if state is None}
            collected = {Value(node, number) for number in inside if number >= operation.body.carried}
            needed -= within | collected
            held -= within
            continue
        saved, read = _copied(graph, node, at, sizes)
        needed.update(read)
        if not data.recompute:
            result.inside[node] = saved
            held.update(Value(node, output) for output in saved.outputs)
            continue
        made = {Value(node, output) for output in range(len(data.types))}
        if made & (needed - held) or saved.outputs or saved.extra:
            result.reruns[node] = saved
            needed.update(sources)
    kept_as_made = {value for value in needed if not graph.node(value.node).recompute}
    return result._replace(values=frozenset(held | kept_as_made))


def _nothing(graph: Graph) -> Kept:
    """Return the saved tensors of a graph that runs without gradients: none."""
    loops = ((node, operation) for node, operation, _ in operations(graph) if isinstance(operation, Loop))
    return Kept(frozenset(), {}, {}, {node: _nothing(loop.body) for node, loop in loops})


def counted_inside(loop: Loop, inner: Kept) -> dict[int, int | None]:
    """Return the outputs of a loop that its body saves, so that their bytes are counted there.

    With each stands None, or the number of the state that they are, step by step, where the body keeps that
    as it comes in.
    """
    body = loop.body
    made = [storage(body, value) for value in body.outputs]
    counted: dict[int, int | None] = {}
    for number, value in enumerate(made):
        collected, given = number >= body.carried, value.node in body.inputs
        as_given = collected and value.node in body.inputs[body.carried :]
        held = value in inner.values and (collected or not given)
        if as_given or held:
            counted[number] = None
        elif number >= body.carried and value in made[: body.carried]:
            state = made.index(value)
            if Value(body.inputs[state]) in inner.values:
                counted[number] = state
    return counted


def _copied(graph: Graph, node: str, at: CostContext, sizes: Sizes) -> tuple[SavedTensors, list[Value]]:
    """Return the bytes an operation saves internally, with copies, and the values it saves as they are."""
    data = graph.node(node)
    saved = data.saved(at)
    copied, as_made = 0.0, []
    for position in saved.inputs:
        value = data.inputs[position]
        copy = copy_bytes(data.op, graph, value, at, sizes)
        if copy is None:
            as_made.append(storage(graph, value))
        else:
            copied = copied + copy
    return saved._replace(extra=saved.extra + copied) if copied else saved, as_made


def copy_bytes(
    operation: Operation, graph: Graph, value: Value, at: CostContext, sizes: Sizes
) -> float | None:
    """Return the bytes per token of an operation's own copy of a value; None if it uses the value itself."""
    given = sizes[value]
    wanted = {"any": given, "compute": at.compute_bytes, "fp32": 4 if given < 4 else given}[
        operation.works_in(at)
    ]
    if wanted == given or not graph.type_of(value).is_float:
        return None
    return wanted * graph.type_of(value).size


def returns_kept(graph: Graph, name: str, values: frozenset[Value]) -> bool:
    """Return whether a body saves the output that becomes this carried input of the next step."""
    made = storage(graph, graph.outputs[graph.inputs.index(name)])
    return made in values and made.node not in graph.inputs


def storage(graph: Graph, value: Value) -> Value:
    """Return the first of the values that share the storage of this one."""
    node = graph.node(value.node)
    if isinstance(node.op, Loop) and value.output >= node.op.body.carried:
        body = node.op.body
        made = body.outputs[value.output].node
        if made in body.inputs[body.carried :]:
            # collected as it is given
            return storage(graph, node.inputs[body.inputs.index(made)])
    return Value(value.node) if node.op.shares_storage else value


def bytes_of(graph: Graph, value: Value, sizes: Sizes) -> float:
    """Return the bytes per token of a storage, without what a row has once, such as its random key."""
    node = graph.node(value.node)
    types = node.types if node.op.shares_storage else [graph.type_of(value)]
    return total(each.size for each in types) * sizes[value]


def _with_rows(graph: Graph, value: Value, sizes: Sizes, length: int) -> float:
    """Return the same with what a row has once, shared by its `length` tokens, and all pairs of these."""
    type = graph.type_of(value)
    if type.kind == "pairs":
        return length * sizes[value]
    of_row = prod(type.shape) * sizes[value] / length if type.kind == "row" else 0
    return of_row or bytes_of(graph, value, sizes)


def element_bytes(graph: Graph, at: CostContext) -> dict[Value, int]:
    """Return the bytes per element of each value."""
    return {
        Value(name, output): at.element_bytes(type.element)
        for name, _, node in operations(graph)
        for output, type in enumerate(node.types)
    }


def saved_per_token(graph: Graph, length: int, size: Precision) -> float:
    """Return the bytes per token saved for the backward pass for sequences of `length`."""
    saved_bytes: float = 0
    given: frozenset[Value] = frozenset()
    for each in passes(costed(graph, length)):
        here = kept(each, Place(), length, size)
        # both passes keep the same tokens and targets
        saved_bytes = saved_bytes + _saved(
            each, Place(), here._replace(values=here.values - given), length, size
        )
        given = here.values & {Value(name) for name in each.inputs}
    return saved_bytes


def _saved(graph: Graph, place: Place, here: Kept, length: int, size: Precision) -> float:
    sizes = element_bytes(graph, place_at(place.trips, length, size))
    saved_bytes = total(saved.extra for saved in here.inside.values()) * place.executions
    first = place.executions // place.trips[place.loops[-1][1]] if place.loops else 0
    inputs, carried = graph.inputs, graph.carried
    # a state that a step keeps when it makes it is not counted again when the next step is given it
    again = {name for name in inputs[:carried] if returns_kept(graph, name, here.values)}
    # in the order of the graph, so that the sum of floats is deterministic
    for value in sorted(here.values):
        if value.node not in inputs:
            saved_bytes = saved_bytes + _with_rows(graph, value, sizes, length) * place.executions
        elif (inputs.index(value.node) < carried and value.node not in again) or not place.loops:
            saved_bytes = saved_bytes + _with_rows(graph, value, sizes, length) * (place.executions - first)
    for node, inner in here.loops.items():
        operation = graph.loop(node)
        saved_bytes = saved_bytes + _saved(operation.body, place.inside(node, operation), inner, length, size)
    return saved_bytes
