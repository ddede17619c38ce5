"""Learned factors of sublayer outputs: a scalar, one per channel, or one per token. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.fused_operations import Update

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Gain(Update):
    """Multiply by a learned vector of shape (1,) or (width,): (x) -> y."""

    width: int
    shape: Shape

    decoding = LOCAL
    kernels = (Kernel("gain", f"{__name__}:gain", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,))
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return (self.shape,)

    def added(self, total: Operation) -> Operation:
        """Return the gated sum."""
        from blocks.wiring.residual.gate.operations import gated

        return gated(total, "scalar" if self.shape == (1,) else "channel")

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input and the cast factor."""
        return SavedTensors(inputs=(0,), once=at.cast_bytes(self.shape[0]))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, the gradients of input and factor, the latter before it is summed."""
        return WorkspaceBytes(flow.outputs, 2 * flow.outputs, 2 * flow.outputs)


@dataclass(frozen=True)
class TokenGain(Update):
    """Multiply each token by a learned scalar times a sigmoid: (logit, x) -> scalar * sigmoid(logit) * x."""

    width: int

    decoding = LOCAL
    kernels = (Kernel("token_gain", f"{__name__}:token_gain", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (1,), (self.width,))
        return (inputs[1],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((1,),)

    def added(self, total: Operation) -> Operation:
        """Return the gated sum."""
        from blocks.wiring.residual.gate.operations import gated

        return gated(total, "logit")

    def saved(self, at: CostContext) -> SavedTensors:
        """Save x, the sigmoid and the factor per token, and the cast scalar."""
        return SavedTensors(inputs=(1,), extra=2 * at.compute_bytes, once=at.cast_bytes(1))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, the gradients of x and of the factors, the latter before they are summed."""
        return WorkspaceBytes(flow.outputs + 2 * at.compute_bytes, 2 * flow.outputs, 2 * flow.outputs)


def gain(x: Tensor, factor: Tensor) -> Tensor:
    """Return x [batch, sequence, width] times a factor [1] or [width]."""
    return x * factor.to(x.dtype)


def token_gain(logit: Tensor, x: Tensor, scalar: Tensor) -> Tensor:
    """Return scalar * sigmoid(logit) * x; x: [batch, sequence, width]; logit: [.., 1]; scalar: [1]."""
    return scalar.to(x.dtype) * logit.to(x.dtype).sigmoid() * x
