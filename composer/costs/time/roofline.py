"""Estimates the time of a training step by a roofline per operation.

An operation takes the longer of its FLOPs at the device's rate and its bytes at the device's bandwidth
(Williams et al., 2009), and at least the overhead of starting it. Its backward pass moves twice the bytes of
its forward pass: it reads gradients and saved tensors, and writes gradients. Recomputed operations run
forward twice. Estimates are lower bounds, without cache effects and temporaries.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from blocks.ir.costs import CostContext
from blocks.ir.graph import Graph, Loop
from blocks.ir.numbers import largest, total
from blocks.ir.operation import Operation, Value
from blocks.ir.walk import Place, graphs_of_passes, operations
from blocks.kernels.slots import DepthCache
from blocks.primitives.operations import Input
from composer.costs.base.precision import FULL, MIXED, precision
from composer.costs.memory.operation_memory import value_bytes
from composer.costs.memory.peak import trained_length
from composer.costs.memory.saved_tensors import Sizes, element_bytes, place_at
from composer.costs.memory.update import optimizer_of, trained_weights
from composer.costs.time.devices import Device
from composer.graph.lowering.build import micro_batch_tokens
from composer.graph.passes.active_steps import costed
from composer.language.schema.spec import Spec

Bound = Literal["flops", "bytes", "overhead"]

OPTIMIZER_PASSES = 10
"""Reads and writes as large as the weights: 1 for the norm of gradients, 2 to clip them, 7 in AdamW.

Muon makes about as many for a matrix."""


@dataclass(frozen=True)
class TimeRow:
    """One operation with all its executions in an optimizer step.

    Attributes:
        place: its place, as in the costs by operation.
        forward: seconds, including recomputation.
        backward: seconds.
        waits: seconds of one forward execution by each limit alone.
    """

    place: str
    operation: str
    block: str
    executions: int
    forward: float
    backward: float
    waits: dict[Bound, float]

    @property
    def bound(self) -> Bound:
        """The bound of its forward pass."""
        return max(self.waits, key=self.waits.__getitem__)

    @property
    def seconds(self) -> float:
        """Forward and backward together."""
        return self.forward + self.backward

    def with_more(self, other: TimeRow) -> TimeRow:
        """Return the row merged with executions of the same operation at other steps of its loop."""
        return replace(
            self,
            executions=self.executions + other.executions,
            forward=self.forward + other.forward,
            backward=self.backward + other.backward,
        )


@dataclass(frozen=True)
class StepTime:
    """The estimated time of one optimizer step: its micro-batches and the update.

    Attributes:
        tokens: of the whole step.
        optimizer: seconds of clipping and of the optimizer.
    """

    tokens: int
    rows: list[TimeRow]
    optimizer: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return total(row.seconds for row in self.rows) + self.optimizer

    @property
    def bytes_share(self) -> float:
        """The fraction of time spent in operations bound by memory bandwidth."""
        waiting = sum(row.seconds for row in self.rows if row.bound == "bytes") + self.optimizer
        return waiting / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        rows = [asdict(row) | {"bound": row.bound} for row in self.rows]
        return {"seconds": self.seconds, "tokens": self.tokens, "optimizer": self.optimizer, "rows": rows}


def step_time(spec: Spec, graph: Graph, device: Device) -> StepTime:
    """Estimate an optimizer step of a spec, on its compiled graph.

    Precision `auto` is bf16-mixed on a device whose bf16 products are faster than fp32.
    """
    tokens = micro_batch_tokens(spec)
    repeats = spec.train.accumulate if spec.train else 1
    rows: dict[str, TimeRow] = {}
    size = precision(spec, MIXED if device.bf16 > device.fp32 else FULL)
    for body, place in graphs_of_passes(costed(graph, trained_length(spec))):
        at = place_at(place.trips, trained_length(spec), size)
        sizes = element_bytes(body, at)
        for node, operation, _ in operations(body):
            if not isinstance(operation, Input | Loop | DepthCache):
                path = ".".join([*(name for name, _ in place.loops), node])
                row = _row(path, body, node, at, sizes, place, tokens, repeats, device)
                rows[path] = rows[path].with_more(row) if path in rows else row
    return StepTime(tokens * repeats, [*rows.values()], _update(spec, graph, size.weight, device))


def _update(spec: Spec, graph: Graph, element: int, device: Device) -> float:
    """Return the seconds of clipping and of the optimizer: bytes of all weights, and products in bf16."""
    option, weights = optimizer_of(spec.train), [*trained_weights(graph)]
    products = ((option.products(weight, inside), copies) for weight, inside, copies in weights)
    multiplied = total(
        copies * largest(each.flops / device.bf16, each.number * device.overhead) for each, copies in products
    )
    elements = sum(copies * weight.size for weight, _, copies in weights)
    return OPTIMIZER_PASSES * element * elements / device.bandwidth + multiplied


def _row(
    path: str,
    body: Graph,
    node: str,
    at: CostContext,
    sizes: Sizes,
    place: Place,
    tokens: int,
    repeats: int,
    device: Device,
) -> TimeRow:
    data = body.node(node)
    operation: Operation = data.op
    given = sum(_bytes(body, value, sizes) for value in data.inputs)
    made = sum(_bytes(body, Value(node, n), sizes) for n in range(len(data.types)))
    read = data.weights if operation.reads_weights else ()
    weights = at.compute_bytes * sum(body.weights[name].size for name in read)
    moved = tokens * operation.traffic(at, given, made) + weights
    flops, backward = tokens * operation.flops(at), tokens * operation.backward_flops(at)
    rate = device.bf16 if at.compute_bytes == 2 else device.fp32
    waits: dict[Bound, float] = {
        "bytes": moved / device.bandwidth,
        "flops": flops / rate,
        "overhead": device.overhead,
    }
    forward = largest(*waits.values())
    after = 0 if place.frozen else largest(2 * waits["bytes"], backward / rate, waits["overhead"])
    runs, again = repeats * place.executions, 2 if data.recompute else 1
    blocks = ", ".join(dict.fromkeys(block for block in data.blocks if block))
    return TimeRow(path, operation.describe(), blocks, runs, runs * again * forward, runs * after, waits)


def _bytes(body: Graph, value: Value, sizes: Sizes) -> float:
    """Return the bytes per token of one value; 0 for token ids, tables and whole slots."""
    return value_bytes(body, value, sizes) if body.type_of(value).shape else 0.0
