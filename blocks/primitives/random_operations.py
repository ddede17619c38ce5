"""Operations that draw random numbers or derive keys. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest
from blocks.ir.operation import LoopIndex, Operation, expect
from blocks.ir.tensor_type import KEY, TRAINING, Shape, TensorType

_REFERENCE = "blocks.primitives.random"


@dataclass(frozen=True)
class DeriveKey(SavesNothing, Operation):
    """Derive the key of one place of use at one step: (key) -> key."""

    place: str
    index: LoopIndex

    recomputable = False
    decoding = LOCAL
    kernels = (Kernel("derive_key", f"{_REFERENCE}:derive_key", "one number for each row"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, KEY)
        return (KEY,)

    def arguments(self) -> dict[str, Any]:
        return {"place": self.place, "index": self.index}


@dataclass(frozen=True)
class Noise(SavesNothing, Operation):
    """Normal noise like the input, truncated at three standard deviations: (x, key) -> y."""

    shape: Shape
    std: float

    passes_on = 0
    gradients = "none"
    decoding = "blocks.primitives.decoding:next_noise"
    kernels = (Kernel("noise", f"{_REFERENCE}:noise", "a hash of key and position, elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, KEY)
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        return {"std": self.std}

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, two 4-byte numbers per element: the random numbers and one intermediate result."""
        return WorkspaceBytes(8 * prod(self.shape), 0, 0)


@dataclass(frozen=True)
class Dropout(Operation):
    """Dropout (arXiv 1207.0580): (x, key, training) -> y.

    In training, elements are set to 0 with a probability and the others scaled, so that the mean is kept.
    """

    shape: Shape
    rate: float

    decoding = LOCAL
    kernels = (Kernel("dropout", f"{_REFERENCE}:dropout", "a hash of key and position, elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, KEY, TRAINING)
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the mask, one byte per element."""
        return SavedTensors(extra=prod(self.shape))

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Read x, write y and the mask."""
        return 2 * written + prod(self.shape)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, two 4-byte numbers per element: the random numbers and one intermediate result."""
        kept = prod(self.shape)
        return WorkspaceBytes(
            largest(8 * kept, kept + flow.outputs), 2 * flow.grad_inputs, 2 * flow.grad_inputs
        )
