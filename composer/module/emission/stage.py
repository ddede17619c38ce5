"""A stage as a module: the code of one step, one or several sets of weights, and a Python loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blocks.base.config import BlockConfig
from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import Operation, Value, Weight
from blocks.ir.walk import Place, operations
from composer.graph.passes import outline
from composer.graph.passes.active_steps import bodies
from composer.language.schema.at import runs_at
from composer.language.schema.levels import Sublayer
from composer.language.schema.spec import Parallel, used
from composer.language.schema.spec import Stage as StageSpec
from composer.module.emission.code import Code, Compiled, StepCode, step_code, without_code
from composer.module.emission.lookup import gather, held_tensor
from composer.module.emission.part import Part, Watchable
from composer.module.emission.truncated import as_constant, without_gradients

Blocks = Mapping[str, BlockConfig]


class Layer(Watchable):
    """One set of weights of one step, with the stages nested in it."""

    sharded = False
    """Whether its weights are sharded, and gathered only while it is called."""
    code: Code | StepCode | None = None
    graph: Graph | None = None

    def __init__(self, graph: Graph, place: Place, compiled: Compiled) -> None:
        super().__init__()
        add_stages(self, graph, place, compiled)

    def step(self, code: Code | StepCode, graph: Graph, called: bool) -> Callable[..., Any]:
        """Return one step as a function of values, with weights prepared now or at each call."""
        if called:
            self.code, self.graph = code, graph
            return self
        weights = gather(self, graph)
        return lambda *values: code(*values, *weights)

    def forward(self, *values: Any) -> Any:
        """Run one step with gathered weights."""
        assert self.code is not None, "a step is run by its stage"
        assert self.graph is not None
        return self.code(*values, *gather(self, self.graph))

    def __getstate__(self) -> dict[str, Any]:
        state = without_code(super().__getstate__())  # type: ignore[no-untyped-call]
        return {name: value for name, value in state.items() if name != "graph"}


class Stage(Watchable):
    """A loop over steps: `step` holds the weights that all steps share, or `layers` has one set per step.

    Attributes:
        called: whether it and its layers are called as modules, so that hooks run.
        sharded: whether its weights are gathered only while it is called.
        done: called after each step with its collected values; returns whether to skip later steps.
    """

    called = False
    sharded = False
    done: Callable[..., bool] | None = None

    def __init__(self, loop: Loop, place: Place, compiled: Compiled) -> None:
        """`place` is the place of the loop's body."""
        super().__init__()
        self.loop, self.place = loop, place
        if loop.tied:
            self.step = Layer(loop.body, place, compiled)
        else:
            self.layers = nn.ModuleList(Layer(body, place, compiled) for body in bodies(loop))
        self.emit(compiled)

    def _about(self) -> str:
        """Return the kind and number of steps, such as `recur x 8`."""
        return self.loop.describe()

    def emit(self, compiled: Compiled, called: bool = False) -> None:
        """Emit the code of one step for the current kernels of its graph, and of its parts if `called`."""
        self.compiled, self.called = compiled, called
        self.code = step_code(self.loop, self.place, compiled)
        self.bodies = bodies(self.loop)
        for body in dict.fromkeys(self.bodies):
            layers = [layer for layer, own in zip(self.sets(), self.bodies, strict=True) if own is body]
            emit_parts(layers, body, self.place)

    def __getstate__(self) -> dict[str, Any]:
        return without_code(super().__getstate__())  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.emit(self.compiled, self.called)

    def sets(self) -> list[Layer]:
        """Return each set of weights once."""
        return [self.step] if self.loop.tied else [*self.layers]

    def ready(self) -> Stage | Prepared:
        """Return the callable for one forward pass, with weights prepared once."""
        return self if self.sharded or self.called else self.prepare()

    def prepare(self) -> Prepared:
        """Prepare the weights."""
        # a recurrent stage may run other numbers of steps with the same code
        bodies_now = [self.loop.body] if self.loop.tied else self.bodies
        steps = [
            layer.step(self.code, body, layer.sharded or self.called)
            for layer, body in zip(self.sets(), bodies_now, strict=True)
        ]
        return Prepared(self.loop, steps, self.done)

    def run(self, *values: Any) -> Any:
        """Run all steps like `Prepared`, by calling the module, so that hooks run."""
        return self(*values)

    def forward(self, *values: Any) -> Any:
        """Run all steps with gathered weights."""
        return self.prepare().run(*values)


@dataclass(frozen=True)
class Prepared:
    """A stage with prepared weights, which the code around it calls."""

    loop: Loop
    steps: list[Callable[..., Any]]
    done: Callable[..., bool] | None = None

    def run(self, *values: Any) -> Any:
        """Run all steps; `values` are carried values, constant ones, then indices of the loops around.

        Returns the carried values after the last step, then a tuple over steps for each collected value:
        one item, or a tuple of several.
        """
        body = self.loop.body
        count, inputs = body.carried, len(body.inputs)
        carried, constant, indices = values[:count], values[count:inputs], values[inputs:]
        collected: list[list[Any]] = [[] for _ in body.outputs[count:]]
        start = self.loop.without_gradients if torch.is_grad_enabled() else 0
        if start:
            carried = self._without_gradients(start, carried, (*constant, *indices))
        for n in range(start, self.loop.trips):
            made = self.steps[n % len(self.steps)](*carried, *constant, *indices, n)
            result = made if len(body.outputs) > 1 else (made,)
            carried = result[:count]
            for steps, value in zip(collected, result[count:], strict=True):
                steps.append(value)
            if self.done is not None and self.done(*result[count:]):
                break
        returned = (*carried, *map(tuple, collected))
        return returned if len(returned) > 1 else returned[0]

    def _without_gradients(
        self, steps: int, carried: tuple[Any, ...], rest: Sequence[Any]
    ) -> tuple[Any, ...]:
        """Run the first steps without gradients; return the carried values as constants."""
        body = self.loop.body
        with without_gradients():
            for n in range(steps):
                made = self.steps[0](*carried, *rest, n)
                carried = made if len(body.outputs) > 1 else (made,)
        kinds = (body.type_of(Value(name)).kind for name in body.inputs[: body.carried])
        return tuple(
            as_constant(each) if kind == "token" else each for kind, each in zip(kinds, carried, strict=True)
        )


def add_stages(module: nn.Module, graph: Graph, place: Place, compiled: Compiled) -> None:
    """Add the stages of a graph to a module, each under its node's name."""
    for node, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            parent, name = descend(module, node)
            parent.add_module(name, Stage(operation, place.inside(node, operation), compiled))


def emit_parts(modules: Sequence[nn.Module], graph: Graph, place: Place) -> None:
    """Emit the code of the outlined parts of a graph, once for all modules that share it."""
    for _, operation, _ in operations(graph):
        if isinstance(operation, outline.Part):
            body, parts = operation.body, [_part(module, operation.name) for module in modules]
            code = Code(body, place, body.outputs, "Part")
            for part in parts:
                part._code, part._graph = code, body
            emit_parts(parts, body, place)


def add_parts(stage: Stage, spec: StageSpec, blocks: Blocks) -> None:
    """Add a module for each sublayer and block to the layers of a stage, and of stages nested in it."""
    for number, layer in enumerate(stage.sets()):
        for position, entry in enumerate(spec.step):
            if spec.tied or isinstance(entry, str) or number in runs_at(entry.at, spec.trips):
                _add_part(layer, position, entry, blocks)


def _add_part(layer: Layer, position: int, entry: Sublayer | StageSpec, blocks: Blocks) -> None:
    held = layer._modules.get(str(position))
    if isinstance(entry, StageSpec):
        assert isinstance(held, Stage)
        add_parts(held, entry, blocks)
        return
    sublayer = _part(layer, str(position), "Sublayer")
    if not isinstance(entry, Parallel):
        (name,) = used(entry)
        _part(sublayer, name)._config = blocks[name]
        return
    for number, name in enumerate(entry.parallel):
        _part(_part(sublayer, str(number), "Branch"), name)._config = blocks[name]


def _part(module: nn.Module, name: str, kind: str = "") -> Part:
    part, _ = descend(module, f"{name}.")
    assert isinstance(part, Part)
    part._kind = kind or part._kind
    return part


def take_graphs(module: nn.Module, graph: Graph, place: Place) -> None:
    """Set the loops of a module's stages to those of a recompiled graph with the same weights."""
    for node, operation, _ in operations(graph):
        if isinstance(operation, Loop):
            stage = _stage(module, node)
            stage.loop, stage.place = operation, place.inside(node, operation)
            for layer, body in zip(stage.sets(), bodies(operation), strict=True):
                take_graphs(layer, body, stage.place)


def put(module: nn.Module, name: str, weight: Weight, tensor: Tensor) -> None:
    """Register a tensor under a dotted name: as a parameter, or as a buffer if it is not trained."""
    parent, role = descend(module, name)
    if weight.trained:
        # not by setattr: a block may have the name of a weight beside it
        parent._parameters[role] = nn.Parameter(tensor)
    else:
        parent.register_buffer(role, tensor, persistent=weight.saved)


def descend(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module of a dotted name, creating missing ones, and the last part of the name."""
    *path, last = name.split(".")
    for part in path:
        # not by getattr: a block may have the name of a method of modules, such as `eval`
        held = module._modules.get(part)
        if held is None:
            held = module._modules[part] = Part()
        module = held
    return module, last


def states(module: nn.Module, graph: Graph) -> Iterator[tuple[Operation, list[Tensor], list[Tensor]]]:
    """Yield each operation that updates states after an optimizer step, with its states and counters."""
    for node, operation, data in operations(graph):
        if isinstance(operation, Loop):
            for layer, body in zip(_stage(module, node).sets(), bodies(operation), strict=True):
                yield from states(layer, body)
        elif isinstance(operation, outline.Part):
            yield from states(descend(module, f"{operation.name}.")[0], operation.body)
        elif operation.update:
            named = ((graph.weights[name], name) for name in data.weights)
            held = [(weight, held_tensor(module, name)) for weight, name in named if not weight.trained]
            counters = [tensor for weight, tensor in held if not weight.saved]
            yield operation, [tensor for _, tensor in held], counters


def _stage(module: nn.Module, node: str) -> Stage:
    parent, name = descend(module, node)
    stage = parent._modules[name]
    assert isinstance(stage, Stage)
    return stage


def source(model: Any) -> Iterator[tuple[str, str]]:
    """Yield (name, source) of each stage, inner ones first, of a model and of its loss."""
    yield from _stage_sources(model)
    yield from model.code.sources("model")
    yield from model._loss.sources("loss")


def _stage_sources(module: nn.Module, path: str = "") -> Iterator[tuple[str, str]]:
    for name, child in module.named_children():
        yield from _stage_sources(child, f"{path}{name}.")
        if isinstance(child, Stage):
            yield from child.code.sources(f"{path}{name}")
