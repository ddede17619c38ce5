"""The trips of a loop that may contain the peak of memory, and how they are called."""

from __future__ import annotations

from blocks.ir.graph import Segment
from blocks.ir.numbers import label, smallest
from blocks.ir.steps import OneStep
from composer.costs.memory.memory_model import Body
from composer.costs.memory.operation_memory import Step, Trips


def words(step: Step, trip: int) -> str:
    """Describe the step of a loop, such as `step 3`."""
    loop = step.operation
    name, first = (loop.origin, loop.first) if isinstance(loop, Segment) else (step.node, 0)
    return f"{name} step {label(trip + first)}"


def during(trips: Trips, body: Body, trip: int) -> Trips:
    """Return the trip counts with this trip as that of the body's loop."""
    return {**trips, body.index: OneStep(trip)}


def corners(inner: Body, step: Step) -> list[int]:
    """Return the trips that may contain the peak: the last, and those at which the bytes alive change.

    After the first trip backward, tied weights have their gradients, and captured values theirs. At the first
    step most gradients are there: of weights that are not tied, and of slots that each trip makes anew.
    """
    last = inner.trips - 1
    steps = [last]
    if inner.tied or len(step.wants) > 1:
        steps.append(last - smallest(1, last))
    if not inner.tied or inner.makes_slots:
        steps.append(0)
    return steps
