"""A short causal convolution of each channel, as an operation. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType


@dataclass(frozen=True)
class ShortConvolution(Operation):
    """silu of a weighted sum of a token's channel and that of `size - 1` tokens before: (x) -> y.

    The last column of the weight [channels, size] is that of the token itself, as torch has it.
    """

    shape: Shape
    size: int

    decoding = "blocks.gated_delta.decoding:convolve_next"
    keeps_every_step = "keeps the latest tokens of each step"
    kernels = (
        Kernel("short_convolution", "blocks.gated_delta.convolved:convolve", "sums made again backward"),
        Kernel(
            "short_convolution_plain",
            "blocks.gated_delta.reference:convolve_plain",
            "reference: one shifted product for each weight of a channel",
        ),
    )

    @property
    def channels(self) -> int:
        """Elements of a token."""
        return prod(self.shape)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape)
        return (TensorType(self.shape),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.channels, self.size),)

    def flops(self, at: CostContext) -> float:
        """There is no matrix product."""
        return 0.0

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input."""
        return SavedTensors(inputs=(0,))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The sums stand in fp32, backward two tensors as wide; narrow values are cast last."""
        wide, narrow = 4 * self.channels, at.compute_bytes < 4
        backward = 2 * wide + (flow.grad_inputs if narrow else 0)
        return WorkspaceBytes(flow.outputs + (wide if narrow else 0), backward, backward, until_end=True)

    def sequence_cache(self, at: CostContext) -> int:
        """The tokens that the next one sees, shared out over those of the context."""
        return -(-(self.size - 1) * self.channels // at.context)
