"""Wiring options of somebody else that are not what they say."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from blocks.base.builder import Builder
from blocks.base.fields import Positive
from blocks.base.wiring import Run, WiringConfig
from blocks.ir.costs import SavedTensors
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, Value
from blocks.ir.tensor_type import TensorType


def moved(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 1, -1))


@dataclass(frozen=True)
class Moved(Operation):
    kernels = (Kernel("moved", "wrong_wirings:moved", "elementwise"),)

    def types(self, inputs: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
        return (inputs[0],)

    def saved(self, at: object) -> SavedTensors:
        return SavedTensors()


class Gate(WiringConfig):
    """How a stage is entered."""

    key = "entered"
    default = "plainly"


class Plainly(Gate):
    """By its input."""

    name = "plainly"


class Ignoring(Gate):
    """By its input, whatever the number is."""

    name = "ignoring"

    ignoring: Positive = 0.5
    """The number."""
    unused: bool = False
    """Nothing."""


class Leaking(Gate):
    """By the input of the token before."""

    name = "leaking"

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        return run(build.op("entered", Moved(), x))
