"""Number the slots of depth state: who writes which, who reads how many.

A slot is one append, in order of execution since the scope began. Appends of one block that stand side by
side in a step share that step's depth index, which rotates their keys and queries; a span without the
current step reads the slots of earlier indices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import LoopIndex, Value
from blocks.ir.slots import DepthKVCache, SlotRead, SlotWrite
from blocks.ir.walk import operations
from blocks.primitives.operations import RotateStep


def number_slots(graph: Graph) -> Graph:
    """Fill in every append's slot, every read's length and the slots' number, here and in the loops below."""
    for node, operation, _ in list(operations(graph)):
        if isinstance(operation, DepthKVCache):
            scope, position = next(_readers(graph, Value(node)))
            slots, steps = _count(scope.body, position)
            graph.replace(node, op=replace(operation, count=slots * scope.trips))
            _assign(scope, position, (LoopIndex(), slots), (LoopIndex(), steps))
        elif isinstance(operation, Loop):
            number_slots(operation.body)
    return graph


def _readers(graph: Graph, slots: Value) -> Iterator[tuple[Loop, int]]:
    """Yield each loop that reads the slots, and as which of its inputs."""
    for node in map(graph.node, graph.readers(slots)):
        if isinstance(node.op, Loop):
            yield node.op, node.inputs.index(slots)


def _events(body: Graph, position: int) -> Iterator[tuple[str, Any, int]]:
    """Yield the operations that read the slots given at an input position, with name and position."""
    slots = Value(body.inputs[position])
    for name in body.readers(slots):
        node = body.node(name)
        yield name, node.op, node.inputs.index(slots)


def _count(body: Graph, position: int) -> tuple[int, int]:
    """Return the slots and the depth indices that one run of the body takes."""
    slots = steps = 0
    beside = False
    for _, operation, inner in _events(body, position):
        if isinstance(operation, Loop):
            inner_slots, inner_steps = _count(operation.body, inner)
            slots, steps = slots + inner_slots * operation.trips, steps + inner_steps * operation.trips
            beside = False
        elif isinstance(operation, SlotWrite):
            slots, steps = slots + 1, steps + (not beside)
            beside = True
    return slots, steps


def _assign(loop: Loop, position: int, slot: tuple[LoopIndex, int], step: tuple[LoopIndex, int]) -> None:
    """Write the indices into the body; `slot` and `step` are (index at the first run, growth per run)."""
    next_slot, next_step = (
        LoopIndex(base.base, (*base.strides, (loop.index, growth))) for base, growth in (slot, step)
    )
    group = next_slot
    beside = False
    for name, operation, inner in _events(loop.body, position):
        if isinstance(operation, Loop):
            slots, steps = _count(operation.body, inner)
            _assign(operation, inner, (next_slot, slots), (next_step, steps))
            next_slot, next_step = next_slot + slots * operation.trips, next_step + steps * operation.trips
            beside = False
        elif isinstance(operation, SlotWrite):
            if not beside:
                group, next_step = next_slot, next_step + 1
            beside = True
            loop.body.replace(name, op=replace(operation, slot=next_slot))  # type: ignore[type-var]
            next_slot = next_slot + 1
            _rotate_by(loop.body, name, next_step + -1)
        elif isinstance(operation, SlotRead):
            reads = next_slot if operation.span == "inclusive" else group
            loop.body.replace(name, op=replace(operation, reads=reads))  # type: ignore[type-var]
            _rotate_by(loop.body, name, next_step + -1)


def _rotate_by(body: Graph, name: str, index: LoopIndex) -> None:
    """Set the index by which a node's first input is rotated, if it is."""
    maker = body.node(name).inputs[0].node
    operation = body.node(maker).op
    if isinstance(operation, RotateStep):
        body.replace(maker, op=replace(operation, index=index))
