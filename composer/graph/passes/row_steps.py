"""Checks of stages whose rows run different numbers of steps: each has to come out as if alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import LoopIndex, Operation, Value
from blocks.ir.walk import operations
from blocks.primitives.operations import Input
from blocks.primitives.random_operations import DeriveKey
from blocks.wiring.train.rows import KeepRows


def check_rows(graph: Graph, longer: Graph, place: str) -> None:
    """Check the stage at a place, such as `stages.0.1`, in a lowered graph.

    `longer` is the same for another number of steps of that stage.

    Raises:
        ValueError: something in its steps, or behind them, would tell how many steps other rows run.
    """
    around, name = _find(graph, place)
    other_around, _ = _find(longer, place)
    loop, other = around.loop(name), other_around.loop(name)
    for why in (*_handed_on(around, name), *_by_number(loop.body, other.body, loop)):
        raise ValueError(why)
    if loop.last is not None:
        for why in (*_begun_late(around, name), *_by_step(loop.body, loop)):
            raise ValueError(f"{why}, and with backprop: last rows with fewer steps begin later")


def find_loop(graph: Graph, place: str) -> Loop:
    """Return the loop of the stage at a place."""
    around, name = _find(graph, place)
    return around.loop(name)


def _find(graph: Graph, place: str) -> tuple[Graph, str]:
    """Return the graph that a stage stands in, and the name of its node."""
    first, number, *inner = place.split(".")
    name = f"{first}.{number}"
    for each in inner:
        graph, name = graph.loop(name).body, each
    return graph, name


def _handed_on(around: Graph, name: str) -> Iterator[str]:
    """Yield what of the steps is read besides the last state, which alone is kept."""
    loop, node = around.loop(name), around.node(name)
    body = loop.body
    if len(body.outputs) > body.carried:
        yield "the loss reads the state after each step"
    if any(body.type_of(value).kind == "scalar" for value in body.outputs[: body.carried]):
        yield "its steps add a loss over the tokens of all rows"
    order = [*around]
    for value in node.inputs[body.carried :]:
        if around.type_of(value).kind != "depth_cache":
            continue
        readers = around.readers(value)
        if value.node in around.inputs or any(order.index(each) > order.index(name) for each in readers):
            yield "slots of its steps are read behind the stage"


def _by_number(body: Graph, longer: Graph, loop: Loop) -> Iterator[str]:
    """Yield what depends on the number of steps."""
    for name, operation, node in operations(body):
        other = longer.node(name) if name in longer else None
        if isinstance(operation, Loop) and other is not None and isinstance(other.op, Loop):
            yield from _by_number(operation.body, other.op.body, loop)
        elif other is None or not _same(operation, other.op):
            yield f"{name} depends on the number of steps"
        elif node.active is not None and any(
            [*node.active.among(number)] != [n for n in node.active.among(loop.trips) if n < number]
            for number in range(1, loop.trips)
        ):
            yield f"{name} runs at steps that are counted from the last one"


def _same(one: Operation, two: Operation) -> bool:
    # inputs from outside, such as depth caches, may have more slots
    return one == two or (isinstance(one, Input) and isinstance(two, Input))


def _begun_late(around: Graph, name: str) -> Iterator[str]:
    """Yield why the state before all steps would lose its gradient."""
    loop, node = around.loop(name), around.node(name)
    for value, kept in zip(node.inputs, loop.body.inputs, strict=False):
        token = loop.body.type_of(Value(kept)).kind == "token"
        if kept in loop.body.inputs[: loop.body.carried] and token and _trained(around, value):
            yield f"{value.node}, where the steps start, needs gradients"


def _trained(graph: Graph, value: Value) -> bool:
    """Return whether a value has a gradient that goes anywhere."""
    node = graph.node(value.node)
    if node.op.gradients == "none" or not graph.type_of(value).is_float:
        return False
    return value.node in graph.inputs or bool(node.weights) or any(_trained(graph, v) for v in node.inputs)


def _by_step(body: Graph, loop: Loop) -> Iterator[str]:
    """Yield what depends on which step it is."""
    if any(body.type_of(value).kind == "order" for value in body.outputs[: body.carried]):
        yield "its steps read what earlier ones wrote"
    for name, operation, node in operations(body):
        if isinstance(operation, Loop):
            yield from _by_step(operation.body, loop)
        elif _is_counted(operation, loop) or node.active is not None:
            yield f"{name} depends on which step it is"


def _is_counted(operation: Operation, loop: Loop) -> bool:
    if isinstance(operation, KeepRows | DeriveKey):
        return False
    held = (getattr(operation, each.name) for each in fields(operation))  # type: ignore[arg-type]
    return any(
        loop.index in {name for name, _ in index.strides} | {count.loop for count in index.counts}
        for index in held
        if isinstance(index, LoopIndex)
    )
