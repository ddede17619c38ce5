"""Operations that draw random numbers, and the keys that they draw from. Torch-free."""

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
    """The key of one place of use at one step: (key) -> key."""

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
    """Normal noise like the input, cut off at three standard deviations: (x, key) -> y."""

    shape: Shape
    std: float

    gradients = "none"
    decoding = "blocks.primitives.decoding:next_noise"
    kernels = (Kernel("noise", f"{_REFERENCE}:noise", "a hash of key and position, elementwise"),)

    def passthrough(self, output: int) -> int | None:
        """A skipped stage leaves the state as it is."""
        return 0

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, KEY)
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        return {"std": self.std}

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The numbers and one step of their making stand side by side in 4 bytes each."""
        return WorkspaceBytes(8 * prod(self.shape), 0, 0)


@dataclass(frozen=True)
class Dropout(Operation):
    """In training, set elements to 0 with a probability and scale the others (arXiv 1207.0580).

    (x, key, training) -> y, which has the same expectation.
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
        """Save which elements stay, a byte for each."""
        return SavedTensors(extra=prod(self.shape))

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Read x, write y and which elements stay."""
        return 2 * written + prod(self.shape)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The numbers and one step of their making stand side by side in 4 bytes each."""
        kept = prod(self.shape)
        return WorkspaceBytes(
            largest(8 * kept, kept + flow.outputs), 2 * flow.grad_inputs, 2 * flow.grad_inputs
        )
