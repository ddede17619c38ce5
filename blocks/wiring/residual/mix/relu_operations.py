"""The operation of residual mixes with ReLU weights. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from blocks.ir.costs import CostContext, IOBytes, WorkspaceBytes
from blocks.ir.kernel import Kernel, with_fields
from blocks.ir.numbers import smallest
from blocks.ir.operation import ORIGIN, LoopIndex
from blocks.ir.tensor_type import Shape
from blocks.wiring.residual.mix.mix_kernels.tiles import PROGRAMS
from blocks.wiring.residual.mix.operations import ScoreValues, unfit

_REFERENCE = "blocks.wiring.residual.mix.relu_reference"


@dataclass(frozen=True)
class RectifyValues(ScoreValues):
    """The sum weighted by b + ReLU(w . RMSNorm(value)): b per distance and channel, w per head.

    `most` is the maximum number of values (DeepCrossAttention, arXiv 2502.06785).
    """

    width: int
    heads: int
    most: int
    partial: bool = False
    reads: LoopIndex = ORIGIN
    fused: bool = field(default=False, kw_only=True)

    span: Literal["inclusive"] = "inclusive"
    kernels = (
        Kernel(
            "triton_rectify_values",
            "blocks.wiring.residual.mix.mix_kernels.fused:rectify",
            "one kernel; each value is read once, scores are computed again backward",
            unfit,
            specialize=with_fields(fused=True),
            check="blocks.wiring.residual.mix.mix_kernels.check:check_rectify",
        ),
        Kernel(
            "rectify_values",
            f"{_REFERENCE}:rectify",
            "not fused: elementwise, value by value",
            specialize=with_fields(fused=False),
            by_autograd="blocks.wiring.residual.mix.by_autograd:rectify",
        ),
    )

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return b [most, width], from the latest value back, and w [width]."""
        return (self.most, self.width), (self.width,)

    def flops(self, at: CostContext) -> float:
        """Three multiplications of the width per value."""
        return 6 * self.width * self.values(at)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The fp32 sum, a value, its weights; backward, a product, gradients of values outside of slots.

        The kernel needs the sum; backward, at most so many partial sums of the gradients of b and w.
        """
        if self.fused:
            sums = 8 * self.width * smallest(PROGRAMS, at.tokens * self.values(at)) / at.tokens
            return WorkspaceBytes(flow.outputs, flow.grad_inputs + sums, flow.grad_inputs + sums)
        full, copy, weights = 4 * self.width, at.widened * self.width, 4 * self.heads
        gradient = full if at.stream_bytes < 4 else 0
        backward = (1 + self.own) * full + copy + 2 * weights + 4 + gradient
        return WorkspaceBytes(self.saved(at).extra + full + copy + weights, backward, flow.grad_inputs)
