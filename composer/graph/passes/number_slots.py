"""Numbers the slots of depth state: which slot each write uses, how many each read sees.

A slot is one append, in order of execution since the scope began. Appends of one block that stand side by
side in a step share that step's depth index, which rotates their keys and queries; a span without the
current step reads the slots of earlier indices. What is written before the scope begins comes first, each
write with a depth index of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import LoopIndex, Value
from blocks.ir.steps import StepCount, Steps
from blocks.ir.walk import operations
from blocks.kernels.slots import DepthCache, SlotRead, SlotWrite
from blocks.primitives.operations import RotateStep


def number_slots(graph: Graph) -> Graph:
    """Fill in every append's slot, every read's length and the slots' number, here and in the loops below."""
    for node, operation, _ in operations(graph):
        if isinstance(operation, DepthCache):
            slots = steps = _written_before(graph, Value(node))
            # one loop, or all stages of the model, one after the other
            for scope, position in _readers(graph, Value(node)):
                _assign(scope, position, LoopIndex(slots), LoopIndex(steps))
                more = _total(scope, position)
                slots, steps = slots + more[0], steps + more[1]
            graph.replace(node, op=replace(operation, count=slots))  # type: ignore[type-var]
            _read_all(graph, Value(node), slots)
        elif isinstance(operation, Loop):
            number_slots(operation.body)
    return graph


def _written_before(graph: Graph, slots: Value) -> int:
    """Number the slots written before the scope begins, such as its input, and return their count."""
    writes = [name for name in graph.readers(slots) if isinstance(graph.node(name).op, SlotWrite)]
    for slot, name in enumerate(writes):
        graph.replace(name, op=replace(graph.node(name).op, slot=LoopIndex(slot)))  # type: ignore[type-var]
    return len(writes)


def _readers(graph: Graph, slots: Value) -> Iterator[tuple[Loop, int]]:
    """Yield each loop that reads the slots, and as which of its inputs."""
    for node in map(graph.node, graph.readers(slots)):
        if isinstance(node.op, Loop):
            yield node.op, node.inputs.index(slots)


def _read_all(graph: Graph, slots: Value, count: int) -> None:
    """Let readers outside the scope, after it has ended, read all slots."""
    for name in graph.readers(slots):
        operation = graph.node(name).op
        if isinstance(operation, SlotRead):
            graph.replace(name, op=replace(operation, reads=LoopIndex(count)))  # type: ignore[type-var]


def _events(body: Graph, position: int) -> Iterator[tuple[str, Any, int]]:
    """Yield the operations that read the slots given at an input position, with name and position."""
    slots = Value(body.inputs[position])
    for name in body.readers(slots):
        node = body.node(name)
        yield name, node.op, node.inputs.index(slots)


class _Use(NamedTuple):
    """One use of depth slots in a body: the slots and depth indices that a run of it takes.

    Attributes:
        inner: position of the slots among the inputs of a loop.
        active: the steps at which it runs.
    """

    name: str
    operation: Any
    inner: int
    slots: int
    steps: int
    active: Steps | None


def _uses(body: Graph, position: int) -> Iterator[_Use]:
    """Yield the uses of the slots which are an input of the body, in the order they run.

    Raises:
        ValueError: writes that share a depth index are active at different steps.
    """
    group: list[Steps | None] = []  # the active steps of the write whose depth index the next one shares
    for name, operation, inner in _events(body, position):
        active, slots, steps = body.node(name).active, 0, 0
        if isinstance(operation, Loop):
            slots, steps = _total(operation, inner)
            group = []
        elif isinstance(operation, SlotWrite) and not operation.counts_steps:
            slots = 1
        elif isinstance(operation, SlotWrite):
            if group and group != [active]:
                place = body.node(name).blocks[0]
                raise ValueError(f"{name}: the uses of block {place!r} in a step must be active together")
            slots, steps = 1, int(not group)
            group = [active]
        yield _Use(name, operation, inner, slots, steps, active)


def _growth(body: Graph, position: int) -> tuple[int, int]:
    """Return the slots and depth indices that each step of a body uses through nodes active at all steps."""
    uses = [use for use in _uses(body, position) if use.active is None]
    return sum(use.slots for use in uses), sum(use.steps for use in uses)


def _total(loop: Loop, position: int) -> tuple[int, int]:
    """Return the slots and depth indices used by all steps of a loop together."""
    slots, steps = (each * loop.trips for each in _growth(loop.body, position))
    for use in _uses(loop.body, position):
        if use.active is not None:
            runs = len(use.active.among(loop.trips))
            slots, steps = slots + use.slots * runs, steps + use.steps * runs
    return slots, steps


def _assign(loop: Loop, position: int, slot: LoopIndex, step: LoopIndex) -> None:
    """Write the indices into the body; `slot` and `step` are those before the loop's first step."""
    uses = [*_uses(loop.body, position)]
    next_slot, next_step = slot, step
    if any(use.active is None and not isinstance(use.operation, SlotRead) for use in uses):
        next_slot, next_step = (
            LoopIndex(base.base, (*base.strides, (loop.index, growth)), base.counts)
            for base, growth in zip((slot, step), _growth(loop.body, position), strict=True)
        )
    for use in uses:
        next_slot = _counted(next_slot, loop, use, use.slots, inclusive=False)
        next_step = _counted(next_step, loop, use, use.steps, inclusive=False)
    group = next_slot
    for use in uses:
        if isinstance(use.operation, Loop):
            _assign(use.operation, use.inner, next_slot, next_step)
        elif isinstance(use.operation, SlotWrite):
            if use.steps:
                group = next_slot
            loop.body.replace(use.name, op=replace(use.operation, slot=next_slot))  # type: ignore[type-var]
        next_slot = _after(next_slot, loop, use, use.slots)
        next_step = _after(next_step, loop, use, use.steps)
        if isinstance(use.operation, SlotRead):
            reads = next_slot if use.operation.span == "inclusive" else group
            loop.body.replace(use.name, op=replace(use.operation, reads=reads))  # type: ignore[type-var]
        if not isinstance(use.operation, Loop):
            _rotate_by(loop.body, use.name, next_step + -1)


def _counted(index: LoopIndex, loop: Loop, use: _Use, grown: int, inclusive: bool) -> LoopIndex:
    """Return an index plus the growth from a use that is active only at some steps."""
    if use.active is None or not grown:
        return index
    return index.plus(StepCount(loop.index, use.active, grown, inclusive))


def _after(index: LoopIndex, loop: Loop, use: _Use, grown: int) -> LoopIndex:
    """Return an index after a use that increases it."""
    if use.active is None:
        return index + grown
    before = _counted(index, loop, use, -grown, inclusive=False)
    return _counted(before, loop, use, grown, inclusive=True)


def _rotate_by(body: Graph, name: str, index: LoopIndex) -> None:
    """Set the index by which a node's first input is rotated, if it is."""
    maker = body.node(name).inputs[0].node
    operation = body.node(maker).op
    if isinstance(operation, RotateStep):
        body.replace(maker, op=replace(operation, index=index))
