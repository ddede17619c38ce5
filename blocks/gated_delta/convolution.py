"""The operation of a short causal depthwise convolution. Torch-free."""

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
    """silu of a causal depthwise convolution over `size` tokens: (x) -> y.

    The last column of the weight [channels, size] is multiplied with the token itself, as in torch.
    """

    shape: Shape
    size: int

    decoding = "blocks.gated_delta.decoding:convolve_next"
    keeps_every_step = "keeps the latest tokens of each step"
    kernels = (
        Kernel(
            "short_convolution",
            "blocks.gated_delta.convolved:convolve",
            "sums made again backward",
            by_autograd="blocks.gated_delta.reference:convolve_plain",
        ),
        Kernel(
            "short_convolution_plain",
            "blocks.gated_delta.reference:convolve_plain",
            "reference: one shifted product for each weight of a channel",
        ),
    )

    @property
    def channels(self) -> int:
        """The number of channels."""
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
        """Forward, fp32 sums beside a narrower output; backward, two fp32 tensors and a narrower gradient."""
        wide, narrow = 4 * self.channels, at.compute_bytes < 4
        backward = 2 * wide + (flow.grad_inputs if narrow else 0)
        return WorkspaceBytes(flow.outputs + (wide if narrow else 0), backward, backward, until_end=True)

    def sequence_cache(self, at: CostContext) -> int:
        """The last `size` - 1 tokens, averaged over the tokens of the context."""
        return -(-(self.size - 1) * self.channels // at.context)
