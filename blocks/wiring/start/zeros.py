"""Stages that start from zero. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blocks.base.builder import Builder
from blocks.ir.costs import SavesNothing
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, Value, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.wiring.start import OtherStart

if TYPE_CHECKING:
    from torch import Tensor


class StartFromZeros(OtherStart):
    """Zeros; requires `inject`."""

    name = "zeros"
    aliases = "zero 0"

    def state(self, build: Builder, x: Value) -> Value:
        """Add zeros."""
        return build.op("start", Zeros((build.width,)), x)


@dataclass(frozen=True)
class Zeros(SavesNothing, Operation):
    """Zeros of the shape of the input: (x) -> y."""

    shape: Shape

    passes_on = 0
    gradients = "none"
    decoding = LOCAL
    kernels = (Kernel("zeros", f"{__name__}:zeros", "filled"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape)
        return (inputs[0],)


def zeros(x: Tensor) -> Tensor:
    """Return zeros like x."""
    return x.new_zeros(x.shape)
