"""A stage as a module: the code of one step, one set of weights or several, and a plain loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from blocks.core.graph import Graph, Loop
from blocks.core.operation import Operation, Weight
from blocks.core.operations import Input
from composer.graph.walk import Place, operations
from composer.module.code import Code, Compiled, without_code
from composer.module.emit import resolve


class Layer(nn.Module):
    """One set of weights of one step, with the stages nested in it."""

    def __init__(self, graph: Graph, place: Place, compiled: Compiled) -> None:
        super().__init__()
        add_stages(self, graph, place, compiled)


class Stage(nn.Module):
    """Steps in a row. `step` holds the weights that all steps share, or `layers` one set for each."""

    def __init__(self, loop: Loop, place: Place, compiled: Compiled) -> None:
        """`place` is the place of the loop's body."""
        super().__init__()
        self.loop, self.place = loop, place
        if loop.tied:
            self.step = Layer(loop.body, place, compiled)
        else:
            self.layers = nn.ModuleList(Layer(loop.body, place, compiled) for _ in range(loop.trips))
        self.emit(compiled)

    def emit(self, compiled: Compiled) -> None:
        """Emit the code of one step for the kernels that its graph has now."""
        body, self.compiled = self.loop.body, compiled
        code = Code(body, self.place, body.graph["outputs"], "Step", compiled)
        self.code = code.train(self.training)

    def __getstate__(self) -> dict[str, Any]:
        return without_code(super().__getstate__())  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.emit(self.compiled)

    def sets(self) -> list[nn.Module]:
        """Return each set of weights once."""
        return [self.step] if self.loop.tied else list(self.layers)

    def prepare(self) -> Prepared:
        """Prepare the weights for one forward pass."""
        return Prepared(self, [gather(layer, self.loop.body) for layer in self.sets()])


@dataclass(frozen=True)
class Prepared:
    """A stage with its weights made ready: what the code around it runs."""

    stage: Stage
    weights: list[list[Any]]

    def run(self, *values: Any) -> Any:
        """Run all steps; `values` are carried ones, then constant ones, then the indices of the loops around.

        Returns the carried values after the last step: one, or a tuple.
        """
        graph = self.stage.loop.body.graph
        count, inputs = graph["carried"], len(graph["inputs"])
        carried, constant, indices = values[:count], values[count:inputs], values[inputs:]
        for n in range(self.stage.loop.trips):
            weights = self.weights[n % len(self.weights)]
            result = self.stage.code(*carried, *constant, *indices, n, *weights)
            carried = result if count > 1 else (result,)
        return carried if count > 1 else carried[0]


def add_stages(module: nn.Module, graph: Graph, place: Place, compiled: Compiled) -> None:
    """Give a module the stages of one graph, each under its node's name."""
    for node, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            parent, name = descend(module, node)
            parent.add_module(name, Stage(operation, place.inside(node, operation), compiled))


def take_graphs(module: nn.Module, graph: Graph) -> None:
    """Give a module's stages the loops of a graph that was compiled anew, with the same weights."""
    for node, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            stage = _stage(module, node)
            stage.loop = operation
            for layer in stage.sets():
                take_graphs(layer, operation.body)


def put(module: nn.Module, name: str, weight: Weight, tensor: Tensor) -> None:
    """Hold a tensor under a dotted name, as a parameter or, untrained, as a buffer."""
    parent, role = descend(module, name)
    if weight.trained:
        parent.register_parameter(role, nn.Parameter(tensor))
    else:
        parent.register_buffer(role, tensor, persistent=weight.saved)


def descend(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that holds a dotted name, made where missing, and the name's last part."""
    *path, last = name.split(".")
    for part in path:
        # straight in the table: a block may be called like a method of modules, such as `eval`
        held = module._modules.get(part)
        if held is None:
            held = module._modules[part] = nn.Module()
        module = held
    return module, last


def gather(module: nn.Module, graph: Graph) -> list[Any]:
    """Return what the graph's code takes for weights, node by node: prepared once, the same at every step."""
    given: list[Any] = []
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop):
            given.append(_stage(module, node).prepare())
        elif not isinstance(operation, Input):
            tensors = [_given(module, name, graph.graph["weights"][name]) for name in data["weights"]]
            prepare = data["kernel"].kernel.prepare
            given += resolve(prepare)(*tensors) if prepare else tensors
    return given


def states(module: nn.Module, graph: Graph) -> Iterator[tuple[Operation, list[Tensor], list[Tensor]]]:
    """Yield each operation that updates states after an optimizer step, its states, and its counters."""
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop):
            for layer in _stage(module, node).sets():
                yield from states(layer, operation.body)
        elif operation.update:
            named = ((graph.graph["weights"][name], name) for name in data["weights"])
            held = [(weight, _held(module, name)) for weight, name in named if not weight.trained]
            counters = [tensor for weight, tensor in held if not weight.saved]
            yield operation, [tensor for _, tensor in held], counters


def _stage(module: nn.Module, node: str) -> Stage:
    parent, name = descend(module, node)
    stage = parent._modules[name]
    assert isinstance(stage, Stage)
    return stage


def _given(module: nn.Module, name: str, weight: Weight) -> Tensor | None:
    return _held(module, name) if weight.saved or module.training else None


def _held(module: nn.Module, name: str) -> Tensor:
    parent, role = descend(module, name)
    tensor: Tensor = getattr(parent, role)
    return tensor
