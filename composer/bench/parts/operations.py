"""Every operation of a model with each of its kernels, on the inputs of a forward pass of that model.

A kernel that is added to an operation takes part without a change here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from blocks.ir.graph import Graph, Loop
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation, Value
from blocks.ir.walk import operations
from blocks.kernels.slot_memory import SlotMemory
from blocks.primitives.operations import Input
from composer.bench.measuring.clocks import Run
from composer.bench.measuring.records import Row
from composer.bench.measuring.setting import Case, Setting, measured
from composer.bench.measuring.spec import bench_spec
from composer.costs.time.devices import Device
from composer.costs.time.roofline import TimeRow, step_time
from composer.graph.lowering.build import micro_batch_tokens
from composer.graph.passes.choose_kernels import Kernels, first_fit, unfit
from composer.language.schema.spec import Spec
from composer.module.emission.emit import resolve
from composer.module.emission.lookup import find, held_tensor
from composer.module.model import ComposedModel

_TASKS = ("forward", "forward + backward")
_STEPS = 2
"""Number of steps of the model, since its operations are the same at every step."""
_OPTIONS = (
    "model.residual={gate: channel}",
    "model.residual={gate: token}",
    "model.residual={streams: 4, mix: static}",
    "model.residual={streams: 4}",
    "model.residual={streams: 4, constrain: doubly_stochastic}",
    "model.residual={mix: static}",
    "model.residual={mix: learned_query}",
    "model.residual={mix: token}",
    "model.residual={mix: relu_query}",
)


@dataclass(frozen=True)
class Call:
    """One operation as the model calls it last in a forward pass.

    Attributes:
        place: its place, as in the costs by operation.
        weights: unprepared, before a kernel prepares them.
        arguments: with evaluated indices.
        floor: the minimal times it can take.
    """

    place: str
    operation: Operation
    kernel: Kernel
    inputs: tuple[Any, ...]
    weights: tuple[Tensor, ...]
    arguments: dict[str, Any]
    floor: TimeRow | None = None


def own_kernels(setting: Setting) -> Iterator[list[Row]]:
    """Measure all operations with several kernels; depth attention has its own part."""
    return _parts(calls_of(setting), _is_measured, setting)


def options(setting: Setting) -> Iterator[list[Row]]:
    """Measure what options of the residual add to the model: of each kind of operation the last call."""
    known = {*map(_key, calls_of(setting))}
    for option in _OPTIONS:
        calls = _calls(bench_spec(setting.full, _STEPS, option), "auto", setting)
        added = {type(call.operation): call for call in calls if _key(call) not in known}
        named = [replace(call, place=f"{call.place}, {option}") for call in added.values()]
        yield from _parts(named, _is_measured, setting)


def _is_measured(call: Call) -> bool:
    return len(call.operation.kernels) > 1 and not _is_loss(call) and not _attends(call)


def attention(setting: Setting) -> Iterator[list[Row]]:
    """Measure sequence attention, without and with a window of a quarter of the context."""
    yield from _parts(calls_of(setting), _attends, setting)
    yield from _parts(windowed(setting), _attends, setting)


def loss(setting: Setting) -> Iterator[list[Row]]:
    """Measure the loss."""
    return _parts(calls_of(setting), _is_loss, setting)


def _attends(call: Call) -> bool:
    own = type(call.operation).__module__ == "blocks.sequence_attention.operations"
    return own and len(call.operation.kernels) > 1


def _is_loss(call: Call) -> bool:
    return call.place == "loss"


def calls_of(setting: Setting) -> list[Call]:
    """Return the operations of the benchmark's model as it calls them, without duplicates."""
    return _calls(bench_spec(setting.full, _STEPS), "auto", setting)


def windowed(setting: Setting) -> list[Call]:
    """Return those of the model with a window, called with the mask that some kernels ignore."""
    context = bench_spec(setting.full, _STEPS).model.context
    spec = bench_spec(setting.full, _STEPS, f"blocks.seq.window={context // 4}")
    calls = _calls(spec, "reference", setting)
    return [replace(call, kernel=first_fit(call.operation, setting.target)) for call in calls]


def _calls(spec: Spec, kernels: Kernels, setting: Setting) -> list[Call]:
    model = ComposedModel(spec, kernels, recompute=()).to(setting.device).train()
    shape = (2, micro_batch_tokens(spec) // spec.model.context, spec.model.context)
    tokens, targets = torch.randint(spec.model.vocab, shape, device=setting.device)
    with cast(setting):
        calls = captured(model, tokens, targets)
    rows = {row.place: row for row in step_time(spec, model.graph, _device(setting)).rows}
    seen = {_key(call): replace(call, floor=rows.get(call.place)) for call in reversed(calls)}
    return [*reversed(seen.values())]


def _parts(calls: list[Call], wanted: Callable[[Call], bool], setting: Setting) -> Iterator[list[Row]]:
    for call in calls:
        if wanted(call) and not has_slots(call):
            for task in _TASKS if differentiable(call) else _TASKS[:1]:
                yield measured(case(call, task, setting), setting)


def captured(model: ComposedModel, tokens: Tensor, targets: Tensor) -> list[Call]:
    """Run a model forward, operation by operation, and return the last call of each."""
    with torch.no_grad():
        # kernels are chosen for the device it runs on
        model.loss(tokens[:1], targets[:1])
        calls: dict[str, Call] = {}
        _run(model, model.graph, [tokens, targets], {}, "", calls)
    return [*calls.values()]


def _run(
    module: nn.Module,
    graph: Graph,
    given: list[Any],
    indices: dict[str, int],
    path: str,
    calls: dict[str, Call],
) -> list[Any]:
    values = {Value(name): value for name, value in zip(graph.inputs, given, strict=True)}
    for node, operation, data in operations(graph):
        if isinstance(operation, Input):
            continue
        inputs = [values[Value(*value)] for value in data.inputs]
        if isinstance(operation, Loop):
            made = _loop(module, node, operation, inputs, indices, f"{path}{node}.", calls)
        else:
            weights = tuple(held_tensor(module, name) for name in data.weights)
            arguments = {key: _index(each, indices) for key, each in operation.arguments().items()}
            call = Call(f"{path}{node}", operation, data.kernel, tuple(inputs), weights, arguments)
            calls[call.place] = call
            out = resolve(call.kernel.function)(*inputs, *prepared(call.kernel, weights), **arguments)
            made = [*out] if isinstance(out, tuple) else [out]
        values |= {Value(node, n): value for n, value in enumerate(made)}
    return [values[Value(*value)] for value in graph.outputs]


def _loop(
    module: nn.Module,
    node: str,
    loop: Loop,
    given: list[Any],
    indices: dict[str, int],
    path: str,
    calls: dict[str, Call],
) -> list[Any]:
    sets = find(module, node).sets()
    count = loop.body.carried
    carried, constant = given[:count], given[count:]
    for n in range(loop.trips):
        inside = {**indices, loop.index: n}
        carried = _run(sets[n % len(sets)], loop.body, [*carried, *constant], inside, path, calls)
    return carried


def case(call: Call, task: str, setting: Setting) -> Case:
    """Return the case that compares an operation's kernels; one that cannot run has a row with the reason."""
    backward = task != _TASKS[0]
    contestants: dict[str, Callable[[], Run]] = {}
    skipped = {}
    for kernel in call.operation.kernels:
        if why := unfit(kernel, call.operation, setting.target):
            skipped[kernel.name] = why
        else:
            contestants[kernel.name] = partial(running, call, kernel, backward, setting)
    waits = call.floor.waits if call.floor else {"bytes": 0.0, "flops": 0.0}
    passes = 3 if backward else 1
    return Case(
        f"{call.operation.describe()} ({call.place})",
        task,
        contestants,
        [call.kernel.name],
        call.kernel.name,
        passes * waits["bytes"] * setting.rates.copy,
        passes * waits["flops"] * setting.rates.product,
        skipped=skipped,
    )


def cast(setting: Setting) -> AbstractContextManager[Any]:
    """Return the autocast that a model trains under on this device."""
    if setting.dtype == torch.float32:
        return nullcontext()
    return torch.autocast(setting.device.type, setting.dtype)


def prepared(kernel: Kernel, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the weights as prepared for a kernel."""
    return tuple(resolve(kernel.prepare)(*weights)) if kernel.prepare else weights


def running(call: Call, kernel: Kernel, backward: bool, setting: Setting) -> Callable[[], list[Tensor]]:
    """Return a function that runs a call with a kernel and returns outputs, then gradients of all inputs."""
    read = [each for position, each in enumerate(call.inputs) if position not in kernel.unused_inputs]
    constants = kernel.specialize(call.operation).arguments().items()
    # those of this kernel: others may take arguments that it has not
    named = {key: call.arguments[key] if isinstance(each, LoopIndex) else each for key, each in constants}
    function = partial(resolve(kernel.function), **named)
    with torch.no_grad(), cast(setting):
        given = (*read, *prepared(kernel, call.weights))
    if not backward:

        def forward() -> list[Tensor]:
            with torch.no_grad(), cast(setting):
                return _tensors(function(*given))

        return forward
    states = {id(weight) for weight in call.weights if not weight.requires_grad}
    arguments = [
        each.detach().clone().requires_grad_() if _has_gradient(each) and id(each) not in states else each
        for each in given
    ]
    leaves = [each for each in arguments if isinstance(each, Tensor) and each.requires_grad]

    kept: dict[tuple[Any, ...], Tensor] = {}

    def both() -> list[Tensor]:
        with cast(setting):
            made = _tensors(function(*arguments))
        outs = [out for out in made if out.requires_grad]
        given_back = [_drawn(out, kept) for out in outs]
        return [*outs, *_tensors(torch.autograd.grad(outs, leaves, given_back, allow_unused=True))]

    return both


def _tensors(made: Any) -> list[Tensor]:
    return [each for each in (made if isinstance(made, tuple) else (made,)) if isinstance(each, Tensor)]


def _drawn(out: Tensor, kept: dict[tuple[Any, ...], Tensor]) -> Tensor:
    """Return a gradient for an output, drawn once for all contestants."""
    key = (*out.shape, out.dtype)
    if key not in kept:
        draw = torch.Generator(out.device).manual_seed(0)
        drawn = torch.randn(out.shape, device=out.device, generator=draw).to(out.dtype)
        kept[key] = drawn if out.dim() else torch.ones_like(out)
    return kept[key]


def _has_gradient(given: Any) -> bool:
    return isinstance(given, Tensor) and given.is_floating_point()


def differentiable(call: Call) -> bool:
    """Return whether any of its inputs has a gradient."""
    return any(_has_gradient(each) for each in (*call.inputs, *call.weights))


def has_slots(call: Call) -> bool:
    """Return whether it reads or writes depth state."""
    return any(isinstance(each, SlotMemory) for each in call.inputs)


def _key(call: Call) -> str:
    """Return the key by which two calls are equal for timing."""
    shapes = [tuple(each.shape) for each in (*call.inputs, *call.weights) if isinstance(each, Tensor)]
    return f"{call.operation.describe()} {call.kernel.name} {shapes}"


def _index(argument: Any, indices: dict[str, int]) -> Any:
    if not isinstance(argument, LoopIndex):
        return argument
    return argument.base + sum(stride * indices[loop] for loop, stride in argument.strides)


def _device(setting: Setting) -> Device:
    """Return this device with the rates of this run, for products in the setting's dtype."""
    copy, product = setting.rates.copy, setting.rates.product
    return Device(product if setting.dtype == torch.float32 else product / 2, product, copy)
