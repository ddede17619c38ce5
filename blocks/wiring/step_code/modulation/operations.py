"""The operations of modulation by the step. Torch-free.

Their products have one vector for all tokens, so they have no FLOPs per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation, expect
from blocks.ir.tensor_type import Shape, TensorType

_REFERENCE = "blocks.wiring.step_code.modulation.reference"


def code(width: int) -> TensorType:
    """Return the type of the code of a step."""
    return TensorType((width,), "stream", "constant")


@dataclass(frozen=True)
class StepPosition(Operation):
    """The code of a step, the sum of MLPs of t = index / steps and of dt = 1 / steps: () -> c.

    Weights of each MLP: [width, size], bias, [width, width], bias (LoopFormer, arXiv 2602.11451).
    """

    width: int
    size: int
    steps: int
    index: LoopIndex

    recomputable = False
    decoding = LOCAL
    kernels = (Kernel("step_position", f"{_REFERENCE}:step_position", "one vector for all tokens"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs)
        return (code(self.width),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        width = self.width
        return ((width, self.size), (width,), (width, width), (width,)) * 2

    def arguments(self) -> dict[str, Any]:
        return {"steps": self.steps, "index": self.index}

    def flops(self, at: CostContext) -> float:
        """None per token."""
        return 0.0

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the sinusoidal codes of t and dt, and the hidden layers before and after the activation."""
        return SavedTensors(once=2 * at.weight_bytes * (self.size + 2 * self.width))


@dataclass(frozen=True)
class Modulate(Operation):
    """Scale each channel by an affine function of silu(c), c the code of the step: (x, c) -> y."""

    width: int

    decoding = LOCAL
    kernels = (Kernel("modulate", f"{_REFERENCE}:modulate", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), code(self.width))
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.width, self.width), (self.width,))

    def flops(self, at: CostContext) -> float:
        """None per token."""
        return 0.0

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input, the activated code and the scale."""
        return SavedTensors(inputs=(0,), once=2 * at.weight_bytes * self.width)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, the summands of the scale's gradient are allocated besides the input's gradient."""
        return WorkspaceBytes(flow.outputs, flow.grad_inputs + flow.outputs, flow.grad_inputs)
