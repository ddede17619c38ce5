"""The operations of residual mixes with weights per token. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel, with_fields
from blocks.ir.numbers import largest
from blocks.ir.operation import ORIGIN, LoopIndex, expect
from blocks.ir.tensor_type import ORDER, TensorType
from blocks.kernels.slots import SlotRead
from blocks.wiring.residual.mix.operations import SumValues, unfit, values_of

_REFERENCE = "blocks.wiring.residual.mix.token_reference"
_FUSED = "blocks.wiring.residual.mix.mix_kernels.fused"
_CHECK = "blocks.wiring.residual.mix.mix_kernels.check"
_BY_AUTOGRAD = "blocks.wiring.residual.mix.by_autograd"


@dataclass(frozen=True)
class NormLatest(SlotRead):
    """RMSNorm without a gain of the latest value: (value, token, slots) -> y.

    This is the last slot, or the input `value` with `partial` or if no slot is written yet.
    """

    width: int
    partial: bool = False
    reads: LoopIndex = ORIGIN
    fused: bool = field(default=False, kw_only=True)

    heads = 1
    span: Literal["inclusive"] = "inclusive"
    kernels = (
        Kernel(
            "triton_norm_latest",
            f"{_FUSED}:norm_latest",
            "one kernel; the value is read once",
            unfit,
            specialize=with_fields(fused=True),
            check=f"{_CHECK}:check_norm",
        ),
        Kernel(
            "norm_latest",
            f"{_REFERENCE}:norm_latest",
            "one slot, elementwise",
            specialize=with_fields(fused=False),
            by_autograd=f"{_BY_AUTOGRAD}:norm_latest",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), ORDER, values_of(inputs[-1], self.width))
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        return {"reads": LoopIndex(0) if self.partial else self.reads}

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Read and write one value."""
        return at.compute_bytes * self.width + written

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input; plain PyTorch also saves the fp32 scale of the latest value."""
        return SavedTensors(inputs=(0,), extra=0 if self.fused else 4)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """A slot in fp32 and the result; backward, two fp32 tensors. The kernel needs none."""
        if self.fused:
            return WorkspaceBytes(flow.outputs, flow.grad_inputs, flow.grad_inputs)
        full, copy = 4 * self.width, 0 if self.partial else at.widened * self.width
        return WorkspaceBytes(full + copy + 4, 2 * full + copy + 4, flow.grad_inputs)


@dataclass(frozen=True)
class SumByToken(SumValues):
    """The sum with weights per token plus learned ones: (start, [partial], weights, token, slots) -> y.

    Both are indexed by distance and head; `most` is the maximum number of values (arXiv 2502.12170).
    """

    kernels = (
        Kernel(
            "triton_sum_by_token",
            f"{_FUSED}:weigh_by_token",
            "one kernel; each value is read once",
            unfit,
            specialize=with_fields(fused=True),
            check=f"{_CHECK}:check_weigh",
        ),
        Kernel(
            "sum_by_token",
            f"{_REFERENCE}:weigh_by_token",
            "not fused: elementwise, value by value",
            specialize=with_fields(fused=False),
            by_autograd=f"{_BY_AUTOGRAD}:weigh_by_token",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        own = [(self.width,)] * self.own
        expect(self, inputs, *own, (self.most, self.heads), ORDER, values_of(inputs[-1], self.width))
        return (inputs[0],)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the values outside of slots, and the weights per token."""
        return SavedTensors(inputs=tuple(range(self.own + 1)))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """fp32 weights and sum, a value; backward, a product, gradients of values outside of slots."""
        if self.fused:
            return super().workspace(at, flow)
        read, most = self.heads * self.values(at), 4 * self.heads * self.most
        full, copy = 4 * self.width, at.widened * self.width
        forward = largest(at.widened * read, full + copy)
        gradient = full if at.stream_bytes < 4 else 0
        backward = largest(at.widened * read, most + (1 + self.own) * full + gradient)
        return WorkspaceBytes(4 * read + forward, 4 * read + backward, flow.grad_inputs)

    def weight_gradients(self, at: CostContext) -> float:
        """In fp32 they are the gradients of an input."""
        return super().weight_gradients(at) if at.widened else 0
