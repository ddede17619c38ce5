"""Stages that start from a learned state. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blocks.base.builder import Builder
from blocks.ir.costs import SavesNothing
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Init, Operation, Value, Weight, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.wiring.start import OtherStart

if TYPE_CHECKING:
    from torch import Tensor


class LearnedStart(OtherStart):
    """A learned vector, the same for every token; requires `inject`."""

    name = "learned"
    aliases = "parameter trained"

    def state(self, build: Builder, x: Value) -> Value:
        """Repeat the vector for every token."""
        weight = Weight("start", (build.width,), Init("normal"), decay=False)
        return build.op("start", Repeat(build.width), x, weights=[weight])


@dataclass(frozen=True)
class Repeat(SavesNothing, Operation):
    """Repeat a learned vector for every token of the input: (x) -> y."""

    width: int

    passes_on = 0
    gradients = "none"
    decoding = LOCAL
    kernels = (Kernel("repeat", f"{__name__}:repeat", "copied"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,))
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.width,),)


def repeat(x: Tensor, start: Tensor) -> Tensor:
    """Return start [width] for every token of x [batch, sequence, width]."""
    return start.expand(x.shape).clone().to(x.dtype)
