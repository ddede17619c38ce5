"""The operation that records values of a graph as they are made, and what it calls. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

from blocks.ir.costs import SavesNothing
from blocks.ir.decoding import LOCAL
from blocks.ir.graph import Choice
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation
from blocks.ir.tensor_type import TensorType

Step = tuple[int, ...]
"""The numbers of the steps at which a value is made, one for each stage around it, outermost first."""


class TapReceiver(Protocol):
    """Receives the values of taps."""

    def take(self, name: str, step: Step, value: Any) -> Any:
        """Take a value, and return it or what the model goes on with."""
        ...


_receivers: WeakValueDictionary[int, TapReceiver] = WeakValueDictionary()
_numbers = count()


def register(receiver: TapReceiver) -> int:
    """Return the number by which taps find a receiver, for as long as it lives."""
    number = next(_numbers)
    _receivers[number] = receiver
    return number


def tap(*values: Any, receiver: int, names: tuple[str, ...], **step: int) -> Any:
    """Hand each value that has a name to the receiver; return what it makes of the first."""
    at = tuple(step.values())
    made = [
        _receivers[receiver].take(name, at, value) if name else value
        for name, value in zip(names, values, strict=True)
    ]
    return made[0]


def uncounted(*weights: Any) -> tuple[Any, ...]:
    """Return weights without the last, a counter of training passes, which then counts nothing."""
    return (*weights[:-1], None)


@dataclass(frozen=True)
class Tap(SavesNothing, Operation):
    """Pass on the first of some values, and hand those with a name to a receiver.

    Attributes:
        receiver: its number, from `register`.
        names: one for each value, or "".
        loops: index names of the loops around, outermost first.
    """

    receiver: int
    names: tuple[str, ...]
    loops: tuple[str, ...]

    passes_on = 0
    recomputable = False
    decoding = LOCAL
    kernels = (Kernel("tap", f"{__name__}:tap", "hands values to whoever records them", traceable=False),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the type of the first value."""
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        """Return the receiver, the names, and the number of each step."""
        steps = {f"step_{loop}": LoopIndex(0, ((loop, 1),)) for loop in self.loops}
        return {"receiver": self.receiver, "names": self.names, **steps}

    @property
    def choice(self) -> Choice:
        """Its only kernel."""
        return Choice(self.kernels[0], "")
