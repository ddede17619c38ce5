"""One operation in the replay: bytes that it saves, allocates and needs as workspace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from blocks.ir.cost_wrapper import unwrap
from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.graph import Graph, Loop, Node
from blocks.ir.numbers import total
from blocks.ir.operation import LoopIndex, Operation, Value
from blocks.ir.steps import OneStep
from blocks.kernels.slots import DepthCache
from blocks.primitives.operations import Project
from composer.costs.base.precision import Precision
from composer.costs.memory.saved_tensors import (
    Kept,
    Sizes,
    bytes_of,
    copy_bytes,
    counted_inside,
    place_at,
    storage,
)

Trips = Mapping[str, int | OneStep]
"""Trip counts by index name; of a loop at one of its steps that step."""


class Batch(NamedTuple):
    """A micro-batch: its tokens, the length of its sequences and their precision."""

    tokens: int
    length: int
    size: Precision

    def at(self, trips: Trips) -> CostContext:
        """Return the place at which costs are counted."""
        return place_at(trips, self.length, self.size, self.tokens)


class Needs(NamedTuple):
    """Bytes that an operation saves internally and needs as workspace."""

    inside: float
    workspace: WorkspaceBytes


class Step(NamedTuple):
    """One operation of a body. All sizes are bytes of the micro-batch.

    Attributes:
        flow: the bytes per token that it reads and writes; see `IOBytes`.
        copied: bytes per token of saved copies of inputs in another precision.
        needs: what it saves internally and needs as workspace, in the mean over all trips.
        varies: whether `needs` differs from trip to trip.
        made: bytes of the storages that it creates: those kept for the backward pass, and the others.
        dies: bytes of the storages that it is the last to read in the forward pass.
        wants: the inputs that get gradients, each with the bytes of its gradient.
        reads: the inputs that its backward pass reads unchanged.
        keeps: the outputs that its backward pass reads.
        sources: the storages of all inputs.
        weights: the names of its trained weights, each with the bytes of its gradient before it is widened.
        in_place: those weights whose gradients are added to a running sum as they are computed.
        prepared: bytes of weights joined or cast once per forward pass, which the backward pass reads.
        joined: whether all its weights share one gradient while it is computed.
        views: 1 if gradients of its weights are views, as those of products are, otherwise 0.
        late: bytes by which gradients grow when they are widened after the backward pass of the operation, if
            the weights were cast where they are first used.
        last: bytes by which gradients grow at the end of the backward pass, and what they grow from, for each
            weight, or all joined ones, that were prepared at the start of the forward pass.
        slots: the nodes of the depth caches that it takes.
        inside: whether it saves tensors internally.
        again: whether it is recomputed in the backward pass.
        made_again: the storages that it then creates again.
    """

    node: str
    operation: Operation
    flow: IOBytes
    copied: float
    needs: Needs
    varies: bool
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    made: tuple[float, float]
    dies: float
    wants: tuple[tuple[Value, float], ...]
    reads: tuple[Value, ...]
    keeps: tuple[Value, ...]
    sources: tuple[Value, ...]
    weights: tuple[tuple[str, float], ...]
    in_place: frozenset[str]
    joined: bool
    views: int
    prepared: float
    late: float
    last: tuple[tuple[float, float], ...]
    slots: tuple[str, ...]
    inside: bool
    again: bool
    made_again: tuple[Value, ...]

    def at(self, batch: Batch, trips: Trips) -> Needs:
        """Return the bytes saved and needed at one trip."""
        if not self.varies:
            return self.needs
        return needs(self.operation, self.flow, self.copied, batch, batch.at(trips), self.again)


_NONE = Needs(0, WorkspaceBytes(0, 0, 0))


def needs(
    operation: Operation, flow: IOBytes, copied: float, batch: Batch, at: CostContext, again: bool
) -> Needs:
    """Return the bytes that an operation, which may run again, saves and needs at a place."""
    at = at._replace(recomputed=True) if again else at
    saved = operation.saved(at) or SavedTensors()
    once = saved.once
    workspace = operation.workspace(at, flow)
    return Needs(
        batch.tokens * (saved.extra + copied) + once,
        WorkspaceBytes(
            batch.tokens * workspace.forward + once,
            batch.tokens * workspace.backward,
            batch.tokens * workspace.weights,
            workspace.until_end,
            batch.tokens * workspace.early if workspace.early else 0.0,
        ),
    )


def value_bytes(graph: Graph, value: Value, sizes: Sizes) -> float:
    """Return the bytes per token of one value."""
    return graph.type_of(value).size * sizes[value]


def step_of(
    graph: Graph,
    node: str,
    at: CostContext,
    sizes: Sizes,
    kept: Kept,
    dies: Iterable[Value],
    batch: Batch,
    ran_before: bool,
) -> Step:
    """Return an operation with its bytes; `dies` are the values that it is the last to read."""
    data = graph.node(node)
    operation, inputs = data.op, data.inputs
    outputs = tuple(Value(node, output) for output in range(len(data.types)))
    made = [value for value in dict.fromkeys(storage(graph, each) for each in outputs) if value.node == node]
    sources = tuple(storage(graph, value) for value in inputs)
    wants = [
        value
        for number, value in enumerate(inputs)
        if graph.type_of(value).is_float
        and operation.gradients != "none"
        and number not in operation.constants
    ]
    keeps: tuple[Value, ...] = ()
    weights: tuple[tuple[str, float], ...] = ()
    in_place: frozenset[str] = frozenset()
    last: tuple[tuple[float, float], ...] = ()
    joined = False
    if isinstance(operation, Loop):
        names = operation.body.inputs
        kept_there = kept.loops[node].values
        reads = tuple(v for v, name in zip(sources, names, strict=True) if Value(name) in kept_there)
        flow, copied, need = IOBytes(0, 0, 0), 0.0, _NONE
        prepared = late = 0.0
    else:
        joined = bool(data.kernel.prepare) and data.kernel.prepared < len(data.weights)
        copies = [copy_bytes(operation, graph, value, at, sizes) for value in inputs]
        saved = data.saved(at)
        reads = tuple(sources[n] for n in saved.inputs if copies[n] is None)
        keeps = tuple(Value(node, output) for output in saved.outputs)
        copied = total(copies[n] or 0 for n in saved.inputs)
        flow = IOBytes(
            total(value_bytes(graph, value, sizes) for value in _gradients(operation, wants, outputs, sizes)),
            total(bytes_of(graph, value, sizes) for value in made),
            total(copy or 0 for copy in copies),
        )
        made_ready = [
            (name, graph.weights[name].size, _ready(operation, data, number, at, batch.size))
            for number, name in enumerate(data.weights)
            if graph.weights[name].trained
        ]
        weights = tuple((name, ready.gradient * size) for name, size, ready in made_ready)
        in_place = frozenset(name for name, _, ready in made_ready if ready.in_place)
        prepared = late = 0.0
        if not ran_before:
            prepared = total(ready.prepared * size for _, size, ready in made_ready)
            late = total(ready.late * size for _, size, ready in made_ready)
            if data.kernel.prepare:
                late, last = 0.0, _widened(made_ready, joined)
        need = needs(operation, flow, copied, batch, at, node in kept.reruns)
    stored = {value: batch.tokens * _stored(graph, value, sizes, kept) for value in (*made, *dies)}
    # tables stay until the step ends
    table = total(
        type.table_bytes(at.context, batch.tokens, at.element_bytes(type.element))
        for type in data.types
        if not isinstance(operation, Loop)
    )
    return Step(
        node,
        operation,
        flow,
        copied,
        need,
        any(issubclass(type(argument), LoopIndex) for argument in operation.arguments().values()),
        inputs,
        outputs,
        (
            table + total(stored[value] for value in made if value in kept.values),
            total(stored[value] for value in made if value not in kept.values),
        ),
        total(stored[value] for value in dies),
        tuple((value, batch.tokens * value_bytes(graph, value, sizes)) for value in wants),
        reads,
        keeps,
        sources,
        weights,
        in_place,
        joined,
        int(isinstance(unwrap(operation), Project)),
        prepared,
        late,
        last,
        tuple(value.node for value in inputs if graph.type_of(value).kind == "depth_cache"),
        node in kept.inside,
        node in kept.reruns,
        tuple(value for value in made if node in kept.reruns and value not in kept.values),
    )


def _stored(graph: Graph, value: Value, sizes: Sizes, kept: Kept) -> float:
    """Return the bytes per token of a storage; 0 if the body of the loop that makes it counts them."""
    loop = graph.node(value.node).op
    if isinstance(loop, Loop) and value.output in counted_inside(loop, kept.loops[value.node]):
        return 0.0
    return bytes_of(graph, value, sizes)


def _gradients(
    operation: Operation, wants: list[Value], outputs: tuple[Value, ...], sizes: Sizes
) -> list[Value]:
    """Return the inputs whose gradients are new tensors."""
    if operation.gradients != "passed":
        return wants
    return [value for value in wants if sizes[value] != sizes[outputs[0]]]


class _Ready(NamedTuple):
    """Bytes per element for preparing a weight; see `Step`."""

    gradient: float
    prepared: float = 0
    late: float = 0
    in_place: bool = False


def _widened(weights: Sequence[tuple[str, int, _Ready]], joined: bool) -> tuple[tuple[float, float], ...]:
    """Return what gradients grow by and what they grow from, all at once if the weights are joined."""
    each = tuple((ready.late * size, ready.gradient * size) for _, size, ready in weights if ready.late)
    return ((total(by for by, _ in each), total(before for _, before in each)),) if joined else each


def _ready(operation: Operation, data: Node, number: int, at: CostContext, size: Precision) -> _Ready:
    """Return how one weight of an operation is prepared."""
    weight, compute = size.weight, size.compute
    if isinstance(operation, DepthCache):
        return _Ready(weight)
    kernel = data.kernel
    if number < kernel.sums:
        copied = number < kernel.casts and (compute < weight or len(data.weights) > kernel.prepared)
        return _Ready(4, prepared=min(compute, weight) if copied else 0, late=weight - 4, in_place=True)
    casts = number < kernel.casts if kernel.prepare else operation.works_in(at) == "compute"
    if casts and compute < weight:
        # cast once for all products; gradients add up as they come, and are widened in the end
        return _Ready(compute, prepared=compute, late=weight - compute)
    joined = kernel.prepared == 1 or (kernel.prepared and isinstance(unwrap(operation), Project))
    return _Ready(weight, prepared=weight if joined else 0)
