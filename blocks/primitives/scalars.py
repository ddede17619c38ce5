"""Operations on scalars, such as sums of losses. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import SavesNothing
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import IDS, SCALAR, TensorType

_REFERENCE = "blocks.primitives.reference"


@dataclass(frozen=True)
class Zero(SavesNothing, Operation):
    """The scalar 0 on the device of the tokens: (tokens) -> scalar."""

    decoding = LOCAL
    kernels = (Kernel("zero", f"{_REFERENCE}:zero", "a constant"),)
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, IDS)
        return (SCALAR,)


@dataclass(frozen=True)
class AddWeighted(SavesNothing, Operation):
    """Add weighted scalars to the first: (total, scalars) -> total."""

    weights: tuple[float, ...]

    passes_on = 0
    decoding = LOCAL
    kernels = (Kernel("add_weighted", f"{_REFERENCE}:add_weighted", "a sum of numbers"),)
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, SCALAR, *(SCALAR for _ in self.weights))
        return (SCALAR,)

    def arguments(self) -> dict[str, Any]:
        return {"weights": self.weights}
