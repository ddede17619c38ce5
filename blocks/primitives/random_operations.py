"""Operations that draw random numbers, and the keys that they draw from. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import CostContext, IOBytes, SavesNothing, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation, expect
from blocks.ir.tensor_type import IDS, KEY, Shape, TensorType

_REFERENCE = "blocks.primitives.random"


@dataclass(frozen=True)
class DeriveKey(SavesNothing, Operation):
    """The key of one place of use at one step: (key) -> key."""

    place: str
    index: LoopIndex

    recomputable = False
    kernels = (Kernel("derive_key", f"{_REFERENCE}:derive_key", "one number for each row"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return a key."""
        expect(self, inputs, KEY)
        return (KEY,)

    def arguments(self) -> dict[str, Any]:
        """Return the place and the step's index."""
        return {"place": self.place, "index": self.index}


@dataclass(frozen=True)
class Noise(SavesNothing, Operation):
    """Normal noise, cut off at three standard deviations: (tokens, key) -> noise, for each token.

    It reads the token ids for their shape.
    """

    shape: Shape
    std: float

    kernels = (Kernel("noise", f"{_REFERENCE}:noise", "a hash of key and position, elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return values in the precision of the residual stream."""
        expect(self, inputs, IDS, KEY)
        return (TensorType(self.shape, "stream"),)

    def arguments(self) -> dict[str, Any]:
        """Return the shape and standard deviation."""
        return {"shape": self.shape, "std": self.std}

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The numbers and one step of their making stand side by side in 4 bytes each."""
        return WorkspaceBytes(2 * flow.made, flow.given, flow.given)
