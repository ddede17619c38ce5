"""Count parameters, FLOPs, memory and caches over a spec's graph.

Conventions: causal attention over T tokens is T (T + 1) / 2 pairs, windows clipped; a product of [m, k] and
[k, n] is 2 m k n FLOPs; the backward pass has two products for each product forward and none into the
embedding's lookup; elementwise work counts 0. FLOPs per token are stated at `model.context`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from math import prod
from typing import Any

from blocks.ir.cost_wrapper import unwrap
from blocks.ir.costs import CostContext
from blocks.ir.graph import Graph, Loop, Node
from blocks.ir.numbers import largest
from blocks.ir.numbers import total as sum_of
from blocks.ir.operation import Operation
from blocks.ir.walk import Place, graphs, graphs_of_passes, operations
from blocks.kernels.slots import DepthCache
from blocks.primitives.operations import Project
from composer.costs.base.precision import precision
from composer.costs.memory.peak import Memory, train_memory, trained_length
from composer.costs.memory.recompute import recompute_flops
from composer.graph.compile import compile_graph, target_on
from composer.graph.other_steps import training_graphs
from composer.graph.passes.active_steps import costed
from composer.graph.passes.mark_recompute import recomputed
from composer.language.schema.spec import Spec
from composer.language.schema.steps import StepRange, most_steps, step_mix, trained_steps, with_steps
from composer.measures.registry import MEASURES
from composer.settings.errors import SpecError

MODEL = "model"
"""The name of the share outside of blocks: embedding, norms, residuals, head and loss."""


@dataclass
class Share:
    """Costs of one block or operation: parameters, and FLOPs per token."""

    params: int = 0
    active_params: int = 0
    forward: float = 0
    backward: float = 0


@dataclass(frozen=True)
class Flops:
    """FLOPs of matrix products."""

    forward: int
    backward: int


@dataclass(frozen=True)
class Row:
    """One operation of the graph: its place, its number of executions and its total cost."""

    place: str
    operation: str
    block: str
    executions: int
    share: Share


@dataclass(frozen=True)
class Costs:
    """The costs of a spec.

    Attributes:
        flops_per_token: forward and backward, at `model.context`.
        train_flops: forward and backward over `train.tokens`; None without a `train` section.
        trained_steps: of each stage that runs other numbers of steps in training, by place, these numbers.
            FLOPs and time of training are expectations over them, its memory is that of the largest.
        recomputed: the operations that are recomputed in the backward pass, by their places.
        recompute_flops: FLOPs per token of recomputed operations, at the training length; not included in
            the other FLOPs.
        train_memory: bytes at the peak of a training step on one micro-batch.
        cache_bytes_per_token: bytes of the KV cache in generation; states of fixed size are divided by
            `model.context`.
        depth_cache_bytes: maximum bytes of the depth slots of one token, alive only while its steps run.
        step_time: estimated seconds of an optimizer step on the device of that cap; None without the cap.
        by_block: shares by block name; `model` is everything outside of blocks.
        by_operation: shares by operation.
        spec, graph: the counted spec and graph; not part of `to_dict`.
    """

    params: int
    active_params: int
    flops_per_token: Flops
    train_flops: int | None
    trained_steps: dict[str, StepRange]
    recomputed: list[str]
    recompute_flops: int
    train_memory: Memory
    cache_bytes_per_token: int
    depth_cache_bytes: int
    step_time: float | None
    by_block: dict[str, Share]
    by_operation: list[Row]
    spec: Spec = field(compare=False, repr=False)
    graph: Graph = field(compare=False, repr=False)

    def measure(self, name: str) -> float | None:
        """Return the value of a measure by its name; None if it does not apply."""
        return MEASURES[name].value(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        costs = {each.name: _plain(getattr(self, each.name)) for each in fields(self) if each.compare}
        if not self.trained_steps:
            del costs["trained_steps"]
        return costs | {name: self.measure(name) for name in MEASURES if name not in costs}


def _plain(value: Any) -> Any:
    if isinstance(value, Memory):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return asdict(value) if isinstance(value, Flops | Row | Share | StepRange) else value


def count_graph(spec: Spec, graph: Graph, memory: Memory | None = None, *, full_mask: bool = False) -> Costs:
    """Count a spec over one of its compiled graphs.

    `memory` is the training memory of that graph, if it was estimated before. `full_mask` counts attention as
    T * T pairs, like FLOP counters that ignore masks.
    """
    size = precision(spec)
    rows = _rows(costed(graph, spec.model.context), spec.model.context, full_mask)
    blocks: dict[str, Share] = defaultdict(Share)
    for row in rows:
        _add(blocks[row.block or MODEL], row.share)
    total = Share()
    for share in blocks.values():
        _add(total, share)
    forward, backward = round(total.forward), round(total.backward)
    sequence, depth = caches(graph, spec.model.context, size.compute)
    longest = longest_graph(spec, graph)
    if longest is not graph:
        depth = largest(depth, caches(longest, spec.model.context, size.compute)[1])
    return Costs(
        params=total.params,
        active_params=total.active_params,
        flops_per_token=Flops(forward, backward),
        train_flops=_train_flops(spec, graph),
        trained_steps=trained_steps(spec),
        recomputed=[*recomputed(graph)],
        recompute_flops=round(recompute_flops_per_token(spec, graph)),
        train_memory=memory or train_memory(spec, longest),
        cache_bytes_per_token=sequence,
        depth_cache_bytes=depth,
        step_time=_step_time(spec, graph),
        by_block=dict(blocks),
        by_operation=rows,
        spec=spec,
        graph=graph,
    )


def trained_flops(graph: Graph, length: int) -> float:
    """Return forward and backward FLOPs per token on sequences of `length`, without recomputation."""
    flops = 0.0
    for body, place in graphs_of_passes(costed(graph, length)):
        at = CostContext(length, place.trips)
        each = (
            operation.flops(at) + (0 if place.frozen else operation.backward_flops(at))
            for _, operation, _ in operations(body)
        )
        flops = flops + place.executions * sum_of(each)
    return flops


def longest_graph(spec: Spec, graph: Graph) -> Graph:
    """Return the graph for the largest number of steps in training, with the same operations recomputed."""
    most = most_steps(spec)
    return compile_graph(with_steps(spec, most), recompute=[*recomputed(graph)]) if most else graph


def training_flops_per_token(spec: Spec, graph: Graph) -> float:
    """Return forward and backward FLOPs per token, averaged over training."""
    mix = training_graphs(spec)
    length = trained_length(spec)
    if not mix:
        return trained_flops(graph, length)
    return sum_of(share * trained_flops(each, length) for share, each in mix)


def _train_flops(spec: Spec, graph: Graph) -> int | None:
    """Return forward and backward FLOPs of all optimizer steps, at the training length."""
    if spec.train is None:
        return None
    per_token = training_flops_per_token(spec, graph)
    return round(per_token * spec.train.steps * spec.train.tokens_per_step)


def recompute_flops_per_token(spec: Spec, graph: Graph) -> float:
    """Return the recomputed FLOPs per token, averaged over training."""
    if not (again := [*recomputed(graph)]):
        return 0
    length, size = trained_length(spec), precision(spec)
    flops = 0.0
    for share, numbers in step_mix(spec):
        each = compile_graph(with_steps(spec, numbers), recompute=again) if numbers else graph
        flops = flops + share * recompute_flops(each, length, size)
    return flops


def _step_time(spec: Spec, graph: Graph) -> float | None:
    cap = spec.caps.step_time
    if cap is None:
        return None
    # imported only for the cap that needs them
    from composer.costs.time.devices import UnknownDevice, device
    from composer.costs.time.roofline import step_time

    try:
        on = device(cap.device)
    except UnknownDevice as error:
        raise SpecError([spec.fault(("caps", "step_time", "device"), error.expected, error.got)]) from None
    seconds, again = 0.0, [*recomputed(graph)]
    for share, numbers in step_mix(spec):
        each = with_steps(spec, numbers)
        graph = compile_graph(each, target_on(spec, on.kind), recompute=again)
        seconds = seconds + share * step_time(each, graph, on).seconds
    return seconds


def _add(total: Share, part: Share) -> None:
    total.params += part.params
    total.active_params += part.active_params
    total.forward += part.forward
    total.backward += part.backward


def _sum(one: Share, other: Share) -> Share:
    return Share(*(getattr(one, each.name) + getattr(other, each.name) for each in fields(Share)))


def _rows(graph: Graph, context: int, full_mask: bool = False) -> list[Row]:
    """Return a row for each operation and block; the segments of a loop and two passes share one row."""
    rows: dict[tuple[str, str], Row] = {}
    seen: set[tuple[object, ...]] = set()
    for body, place in graphs_of_passes(graph):
        at = CostContext(context, place.trips, full_mask=full_mask)
        path = ".".join(node for node, _ in place.loops)
        for node, operation, data in operations(body):
            if isinstance(operation, Loop):
                continue
            name = f"{path}.{node}" if path else node
            for block, share in _shares(body, operation, data, at, place, path, seen):
                executions = place.executions
                if (row := rows.get((name, block))) is not None:
                    executions, share = executions + row.executions, _sum(row.share, share)
                rows[name, block] = Row(name, operation.describe(), block, executions, share)
    return [*rows.values()]


def _shares(
    body: Graph,
    operation: Operation,
    data: Node,
    at: CostContext,
    place: Place,
    path: str,
    seen: set[tuple[object, ...]],
) -> Iterator[tuple[str, Share]]:
    """Yield each block's share of one operation; a merged projection belongs to several blocks."""
    forward = operation.flops(at) * place.executions
    backward = 0 if place.frozen else operation.backward_flops(at) * place.executions
    blocks = data.blocks
    shares = {block: Share() for block in blocks}
    parts = [1.0]
    if isinstance(product := unwrap(operation), Project):
        parts = [prod(shape) / product.width for shape in product.outputs]
    for block, part in zip(blocks, parts, strict=True):
        shares[block].forward += forward * part
        shares[block].backward += backward * part
    for name in data.weights:
        weight = body.weights[name]
        # a tied weight is counted where it is used first
        tensor = path, place.layers, name
        if weight.trained and tensor not in seen:
            seen.add(tensor)
            size = weight.size * place.copies
            shares[weight.block].params += size
            shares[weight.block].active_params += size * weight.active[0] // weight.active[1]
    yield from shares.items()


def caches(graph: Graph, context: int, compute: int) -> tuple[int, int]:
    """Return bytes per token of the KV cache, and of the depth slots that are alive at the same time."""
    sequence = sum(
        operation.sequence_cache(CostContext(context, place.trips, compute_bytes=compute)) * place.executions
        for body, place in graphs(costed(graph, context))
        for _, operation, _ in operations(body)
    )
    return compute * sequence, compute * _alive(graph)


def _alive(graph: Graph) -> int:
    """Return the elements per token of slots that are alive at once: a stage's own and those inside it."""
    most = 0
    for _, operation, data in operations(graph):
        if isinstance(operation, Loop):
            held = (graph.node(value.node).op for value in data.inputs if not value.output)
            own = sum(slots.elements() for slots in held if isinstance(slots, DepthCache))
            most = largest(most, own + _alive(operation.body))
    return most
