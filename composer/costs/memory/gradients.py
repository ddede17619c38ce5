"""Gradients in the replay of a backward pass: their storages, and when those of weights are added up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from blocks.ir.numbers import largest, smallest, total
from blocks.ir.operation import Value
from composer.costs.memory.operation_memory import Step


class Gradient:
    """The storage of a gradient, and the number of values whose gradients share it."""

    __slots__ = ("bytes", "values")

    def __init__(self, size: float, values: int = 1) -> None:
        self.bytes, self.values = size, values


class Made(NamedTuple):
    """The gradients of the inputs of an operation, and of its weights.

    Attributes:
        late: bytes by which gradients of weights grow after it.
        copied: bytes of the new gradient and the sum where that is a copy, since the old one is a view.
    """

    gradients: Sequence[tuple[Value, Gradient]] = ()
    late: float = 0
    copied: float | None = None


class Added(NamedTuple):
    """Bytes of gradients that are added to earlier ones: beside those in place, and see `Made`."""

    beside: float = 0
    copied: float | None = None


Gradients = dict[Value, Gradient]
Given = list[Gradient | None]


class Turn(NamedTuple):
    """The execution of a body that the backward pass has reached.

    Attributes:
        uses: how often these weights were used before it: not (0), once (1), or more often (2).
        last: 1 if it is the last with these weights, after which prepared weights are freed.
        given: 1 if the states that come in are kept by the trip before, not by the graph around the loop.
        slots: bytes of gradients of depth slots that do not exist yet, by input.
    """

    uses: int
    last: int
    given: int
    slots: dict[str, float]

    @property
    def first(self) -> int:
        """1 if gradients of weights are created, 0 if they are accumulated."""
        return 1 - smallest(1, self.uses)

    @property
    def second(self) -> int:
        """1 if gradients of weights are accumulated for the first time."""
        return self.uses * (2 - self.uses)


def added_to(step: Step, turn: Turn, seen: dict[str, int]) -> Added:
    """Return what is added to earlier gradients of weights: one at a time, those of joined weights together.

    `seen` has the weights used later in the body, and whether the gradients are views.
    """
    own = [(name, size) for name, size in step.weights if name not in step.in_place]
    beside = [(1 if name in seen else 1 - turn.first) * size for name, size in own]
    first = [
        2 * (turn.first * seen[name] if name in seen else turn.second * step.views) * size
        for name, size in own
    ]
    views = any(seen.get(name, step.views) for name, _ in own)
    seen.update((name, step.views) for name, _ in step.weights if name not in seen)
    if step.joined:
        return Added(total(beside), total(first) if views else None)
    return Added(largest(0, *beside), largest(0, *first) if views else None)
