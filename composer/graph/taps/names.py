"""The names of the values of a model: functions of its spec, the same under every plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import Value
from blocks.ir.tensor_type import TensorType
from blocks.ir.walk import operations
from blocks.primitives.operations import Input
from composer.graph.passes.lowered import lowered
from composer.language.schema.spec import Spec

STATE_IN = "x"
"""The name, within its stage, of the state that enters a step."""


class Named(NamedTuple):
    """A value that can be recorded.

    Attributes:
        name: its place, such as `stages.0.1.depth.query`.
        type: its shape per token and its precision.
        stages: how many stages it is in; its steps are as many numbers.
    """

    name: str
    type: TensorType
    stages: int


def value_names(spec: Spec) -> dict[str, Named]:
    """Return the values that can be recorded, by name, in the order in which they are made.

    The name of a stage is that of the state after each of its steps; `x` in it is the state that a step is
    given. An operation's output goes by its place in the graph; further outputs by their numbers.
    """
    graph = lowered(spec)
    tokens = graph.inputs[0]
    names = [Named(tokens, graph.type_of(Value(tokens)), 0), *_named(graph, "", 0)]
    return {each.name: each for each in names}


def local_names(name: str, types: tuple[TensorType, ...]) -> list[str]:
    """Return the names of a node's outputs."""
    return [name] if len(types) == 1 else [f"{name}.{number}" for number in range(len(types))]


def state_input(body: Graph) -> Value | None:
    """Return the state that a step is given and hands on; None where steps hand on other values alone."""
    state = Value(STATE_IN)
    return (
        state if body.carried and body.inputs[0] == STATE_IN and body.type_of(state).kind == "token" else None
    )


def _named(graph: Graph, path: str, stages: int) -> Iterator[Named]:
    for name, operation, node in operations(graph):
        if isinstance(operation, Loop):
            body, place = operation.body, f"{path}{name}"
            state = state_input(body)
            if state is not None:
                yield Named(f"{place}.{STATE_IN}", body.type_of(state), stages + 1)
            yield from _named(body, f"{place}.", stages + 1)
            if state is not None:
                yield Named(place, body.type_of(state), stages + 1)
        elif not isinstance(operation, Input):
            for own, type in zip(local_names(name, node.types), node.types, strict=True):
                if type.kind in ("token", "scalar") and type.element != "none":
                    yield Named(f"{path}{own}", type, stages)
