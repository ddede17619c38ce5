"""The operation of the consistency loss. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import IDS, SCALAR, TensorType


@dataclass(frozen=True)
class StateDistance(Operation):
    """The mean squared difference of two states at scored targets: (x, constant, targets) -> scalar."""

    width: int

    constants = (1,)
    recomputable = False
    kernels = (
        Kernel(
            "state_distance",
            "blocks.wiring.loss.consistency.reference:state_distance",
            "elementwise, in fp32",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), (self.width,), IDS)
        return (SCALAR,)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the fp32 difference and the mask of scored targets."""
        return SavedTensors(extra=4 * self.width + 1)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Differences are computed in fp32."""
        return "fp32"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the square and the difference; backward, gradients of both factors and their sum."""
        square, row = 4 * self.width, 4
        forward = self.saved(at).extra + square + flow.casts
        return WorkspaceBytes(forward, 3 * square + row, 3 * square + row)
