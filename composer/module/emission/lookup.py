"""Looks up what emitted code takes from modules: prepared weights, and the modules it calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import Weight
from blocks.ir.walk import operations
from blocks.primitives.operations import Input
from composer.graph.passes import outline
from composer.module.emission.emit import resolve

_READY: ContextVar[dict[tuple[Any, ...], list[Any]] | None] = ContextVar("ready", default=None)


@contextmanager
def made_ready_once() -> Iterator[None]:
    """Share prepared weights among the forward passes in the context."""
    token = _READY.set({})
    try:
        yield
    finally:
        _READY.reset(token)


def gather(
    module: nn.Module,
    graph: Graph,
    ready: Callable[[str, Any], Any] = lambda _, stage: stage.ready(),
    counts: bool | None = None,
) -> list[Any]:
    """Return the prepared weights that the graph's code takes, node by node, the same at every step.

    A loop takes the result of `ready(name of its node, its stage)`. Counters of training passes are None if
    `counts` is false, by default outside of training.
    """
    counts = module.training if counts is None else counts
    given: list[Any] = []
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop):
            given.append(ready(node, find(module, node)))
        elif isinstance(operation, outline.Part):
            given.append(find(module, operation.name))
        elif not isinstance(operation, Input):
            tensors = [_given(module, name, graph.weights[name], counts) for name in data.weights]
            prepare = data.kernel.prepare
            given += _made_ready(prepare, tensors) if prepare else tensors
    return given


def _made_ready(prepare: str, tensors: list[Tensor | None]) -> list[Any]:
    known = _READY.get()
    if known is None:
        return [*resolve(prepare)(*tensors)]
    key = (prepare, *map(id, tensors))
    if key not in known:
        known[key] = [*resolve(prepare)(*tensors)]
    return known[key]


def _given(module: nn.Module, name: str, weight: Weight, counts: bool) -> Tensor | None:
    return held_tensor(module, name) if weight.saved or counts else None


def held_tensor(module: nn.Module, name: str) -> Tensor:
    """Return the parameter or buffer of a dotted name."""
    path, _, role = name.rpartition(".")
    tensor: Tensor = getattr(find(module, path), role)
    return tensor


def find(module: nn.Module, path: str) -> Any:
    """Return the submodule of a dotted path; the module itself for an empty one."""
    for name in filter(None, path.split(".")):
        # not by getattr: a block may have the name of a method of modules, such as `eval`
        held = module._modules[name]
        assert held is not None
        module = held
    return module
