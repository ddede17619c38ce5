"""Costs of what runs on some of the tokens only: as much less as these are fewer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

from blocks.ir.graph import Graph, Loop, Node
from blocks.ir.operation import Value
from blocks.ir.selected_tokens import OnSelectedTokens, ScattersTokens, SelectsTokens
from blocks.ir.tensor_type import TensorType
from blocks.ir.walk import operations

T = TypeVar("T")


def chooses(graph: Graph) -> bool:
    """Return whether an operation of a graph, loops in it left out, chooses tokens."""
    return any(isinstance(operation, SelectsTokens) for _, operation, _ in operations(graph))


def values_of_some(graph: Graph) -> dict[Value, SelectsTokens]:
    """Map the values of a graph, loops in it left out, that have some of the tokens to what chooses these."""
    choosers = _values_of_some(graph)
    return {value: cast("SelectsTokens", graph.node(name).op) for value, name in choosers.items()}


def nodes_of_some(graph: Graph) -> dict[str, str]:
    """Map the nodes of a graph, loops in it left out, that run on some tokens to what chooses these."""
    some = _values_of_some(graph)
    nodes = ((name, _chooser(node, some)) for name, _, node in operations(graph))
    return {name: chooser for name, chooser in nodes if chooser is not None}


def _values_of_some(graph: Graph) -> dict[Value, str]:
    some: dict[Value, str] = {}
    for name, operation, node in operations(graph):
        if isinstance(operation, SelectsTokens):
            some |= {Value(name, output): name for output in operation.some}
        elif (chooser := _chooser(node, some)) and not isinstance(operation, ScattersTokens):
            tokens = (n for n, type in enumerate(node.types) if type.kind == "token")
            some |= {Value(name, output): chooser for output in tokens}
    return some


def counted_by_share(graph: Graph, length: int) -> Graph:
    """Return a graph, loops in it included, that costs what it does on sequences of `length`.

    Operations on some of the tokens are wrapped, and sizes of their values are per token of all.
    """
    some = values_of_some(graph)
    made = graph.empty()
    for name, operation, node in operations(graph):
        if isinstance(operation, Loop):
            operation = replace(operation, body=counted_by_share(operation.body, length))
        elif (chooser := _chooser(node, some)) and not isinstance(operation, SelectsTokens):
            operation = OnSelectedTokens(operation, chooser)
        types = tuple(
            _of_all(type, some[value].most(length)) if (value := Value(name, output)) in some else type
            for output, type in enumerate(node.types)
        )
        made.put(name, replace(node, op=operation, types=types))
    return made


def _chooser(node: Node, some: Mapping[Value, T]) -> T | None:
    """Return what chooses the tokens that a node runs on; None where it runs on all."""
    return next((some[value] for value in node.inputs if value in some), None)


def _of_all(type: TensorType, share: Any) -> TensorType:
    """Return a type whose size per token of all is a share of what it is per token of some."""
    return replace(type, shape=(share, *type.shape))
