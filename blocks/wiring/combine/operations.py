"""The operations that combine branches. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import TensorType, widest

_REFERENCE = "blocks.wiring.combine.reference"


@dataclass(frozen=True)
class Mean(SavesNothing, Operation):
    """The mean of the branches."""

    width: int
    branches: int

    gradients = "joint"
    decoding = LOCAL
    kernels = (Kernel("mean", f"{_REFERENCE}:mean", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, *[(self.width,)] * self.branches)
        return (TensorType((self.width,), widest(*inputs)),)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the stacked branches and their sum; backward, the gradients of the branches."""
        return WorkspaceBytes((self.branches + 1) * flow.outputs, flow.grad_inputs, flow.grad_inputs)


@dataclass(frozen=True)
class Gate(Operation):
    """The sum of branches weighted by a softmax over one logit per branch: (logits, branches...) -> y."""

    width: int
    branches: int

    decoding = LOCAL
    kernels = (Kernel("gate", f"{_REFERENCE}:gate", "softmax over the branches, elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.branches,), *[(self.width,)] * self.branches)
        return (TensorType((self.width,), widest(*inputs[1:])),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the branches and the softmax, and its cast copy if the branches are in a narrower dtype."""
        narrow = at.compute_bytes if at.widened else 0
        return SavedTensors(inputs=tuple(range(1, 1 + self.branches)), extra=(4 + narrow) * self.branches)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, a partial sum, the next product and their sum; backward, a product and all gradients."""
        backward = (self.branches + 1) * (flow.outputs + at.compute_bytes)
        return WorkspaceBytes(3 * flow.outputs + self.saved(at).extra, backward, backward)
