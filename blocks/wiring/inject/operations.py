"""The operations of input injection. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation, expect
from blocks.ir.tensor_type import Shape, TensorType, widest

_REFERENCE = "blocks.wiring.inject.reference"


@dataclass(frozen=True)
class InjectAdd(SavesNothing, Operation):
    """Add the stage's input at every step but the first: (x, start) -> x."""

    width: int
    index: LoopIndex

    gradients = "passed"
    kernels = (Kernel("inject_add", f"{_REFERENCE}:inject_add", "elementwise, skipped at the first step"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the width."""
        expect(self, inputs, (self.width,), (self.width,))
        return (TensorType((self.width,), widest(*inputs)),)

    def arguments(self) -> dict[str, Any]:
        """Return the step's index."""
        return {"index": self.index}


@dataclass(frozen=True)
class InjectConcat(Operation):
    """Project the state and the stage's input side by side back to the width: (x, start) -> x."""

    width: int

    gradients = "joint"
    kernels = (Kernel("inject_concat", f"{_REFERENCE}:inject_concat", "copied side by side for one product"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the width."""
        expect(self, inputs, (self.width,), (self.width,))
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [width, 2 * width]."""
        return ((self.width, 2 * self.width),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep both inputs as one copy."""
        return SavedTensors(extra=at.compute_bytes * 2 * self.width)

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The copy is cast where products are narrower than the stream."""
        cast = at.stream_bytes if at.compute_bytes < at.stream_bytes else 0
        backward = at.compute_bytes * 2 * self.width
        return WorkspaceBytes((at.compute_bytes + 2 * cast) * self.width + backward, backward, backward)
