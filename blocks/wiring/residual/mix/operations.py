"""The operations of residual mixes. Torch-free. A later pass assigns the slot numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel, Target, with_fields
from blocks.ir.numbers import largest
from blocks.ir.operation import ORIGIN, LoopIndex, expect
from blocks.ir.tensor_type import ORDER, Shape, TensorType
from blocks.kernels.gpu import off_triton
from blocks.kernels.slots import DepthCache, SlotRead, SlotWrite
from blocks.wiring.residual.mix.mix_kernels.tiles import LARGEST, elements

_REFERENCE = "blocks.wiring.residual.mix.reference"
_FUSED = "blocks.wiring.residual.mix.mix_kernels.fused"
_CHECK = "blocks.wiring.residual.mix.mix_kernels.check"
_BY_AUTOGRAD = "blocks.wiring.residual.mix.by_autograd"


def unfit(operation: Any, target: Target) -> str:
    """Return why the Triton kernels cannot run an operation, or "" if they can."""
    larger = elements(operation.heads, operation.width) > LARGEST
    return off_triton(operation, target) or (f"values are longer than {LARGEST}, padded" if larger else "")


def values_of(given: TensorType, width: int) -> TensorType:
    """Return the type of any number of slots for values of this width."""
    return TensorType((*given.shape[:1], width), kind="depth_cache")


@dataclass(frozen=True)
class ValueCache(DepthCache):
    """Slots for the outputs of the sublayers of one stage: (tokens) -> slots, token."""

    width: int
    count: int = 0

    kernels = (
        Kernel(
            "values",
            f"{_REFERENCE}:values",
            "allocated once per forward, indexed explicitly",
            by_autograd=f"{_BY_AUTOGRAD}:values",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the slots [count, width] and the order token."""
        return (TensorType((self.count, self.width), kind="depth_cache"), ORDER)

    def arguments(self) -> dict[str, Any]:
        return {"count": self.count, "width": self.width}

    def elements(self) -> int:
        """Return the number of elements per token of all slots."""
        return self.count * self.width


@dataclass(frozen=True)
class WriteValue(SlotWrite):
    """Write a value into its slot: (y, token, slots) -> token."""

    width: int
    slot: LoopIndex = ORIGIN

    counts_steps = False

    kernels = (
        Kernel(
            "write_value",
            f"{_REFERENCE}:write",
            "written in place once, no list is stacked",
            by_autograd=f"{_BY_AUTOGRAD}:write",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), ORDER, values_of(inputs[-1], self.width))
        return (ORDER,)

    def arguments(self) -> dict[str, Any]:
        return {"slot": self.slot}

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Read the value, write it to the slot."""
        return read + at.compute_bytes * self.width


class MixValues(SlotRead):
    """Sum the values of earlier sublayers: (start, [partial], token, slots) -> y, in the dtype of the start.

    The values are the start, the first slots and, with `partial`, one outside of the slots.
    """

    width: int
    heads: int
    partial: bool

    @property
    def own(self) -> int:
        """The number of values outside of slots."""
        return 2 if self.partial else 1

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, *[(self.width,)] * self.own, ORDER, values_of(inputs[-1], self.width))
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        return {"reads": self.reads, "heads": self.heads}

    def values(self, at: CostContext) -> float:
        """Return the number of values, averaged over all executions."""
        return self.reads.mean(at.trips) + self.own

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Every value is read once."""
        return read + at.compute_bytes * self.width * self.reads.mean(at.trips) + written


@dataclass(frozen=True)
class SumValues(MixValues):
    """The sum with a learned weight per distance and head; `most` is the maximum number of values."""

    width: int
    heads: int
    most: int
    partial: bool = False
    reads: LoopIndex = ORIGIN
    fused: bool = field(default=False, kw_only=True)

    span: Literal["inclusive"] = "inclusive"
    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel(
            "triton_sum_values",
            f"{_FUSED}:weigh",
            "one kernel; each value is read once",
            unfit,
            specialize=with_fields(fused=True),
            check=f"{_CHECK}:check_weigh",
        ),
        Kernel(
            "sum_values",
            f"{_REFERENCE}:weigh",
            "not fused: elementwise, value by value",
            specialize=with_fields(fused=False),
            by_autograd=f"{_BY_AUTOGRAD}:weigh",
        ),
    )

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [most, heads], from the latest value back."""
        return ((self.most, self.heads),)

    def flops(self, at: CostContext) -> float:
        """One multiplication of the width per value."""
        return 2 * self.width * self.values(at)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the values outside of slots."""
        return SavedTensors(inputs=tuple(range(self.own)))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The fp32 sum and a value; backward, a product and the gradients of values outside of slots.

        The kernel needs the sum; backward, gradients of values outside of slots, and of each token's weights.
        """
        if self.fused:
            backward = flow.grad_inputs + self.weight_gradients(at)
            return WorkspaceBytes(flow.outputs, backward, backward)
        full, copy = 4 * self.width, at.widened * self.width
        gradient = full if at.stream_bytes < 4 else 0
        return WorkspaceBytes(full + copy, (1 + self.own) * full + gradient, flow.grad_inputs)

    def weight_gradients(self, at: CostContext) -> float:
        """Return the bytes per token of the fp32 gradients of each token's weights under the kernel."""
        return 4 * self.most * self.heads


class ScoreValues(MixValues):
    """Base class of sums weighted by functions of w . RMSNorm(value)."""

    fused: bool

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Every value is read twice, for its score and for the sum; by the kernel once."""
        once = super().traffic(at, read, written)
        return once if self.fused else 2 * once - written

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the values outside of slots; plain PyTorch also saves each value's fp32 scores and scale."""
        scores = 0 if self.fused else 4 * (self.heads + 1) * self.values(at)
        return SavedTensors(inputs=tuple(range(self.own)), extra=scores)


@dataclass(frozen=True)
class AttendValues(ScoreValues):
    """The sum weighted by a softmax over w . RMSNorm(value) (arXiv 2603.15031)."""

    width: int
    heads: int
    partial: bool = False
    reads: LoopIndex = ORIGIN
    fused: bool = field(default=False, kw_only=True)
    """Whether a Triton kernel runs it, which saves the sum and the log-sum-exp of the scores."""

    span: Literal["inclusive"] = "inclusive"
    kernels = (
        Kernel(
            "triton_attend_values",
            f"{_FUSED}:attend",
            "one kernel; each value is read once, only the log-sum-exp is kept",
            unfit,
            prepare="blocks.primitives.fused:sum_gain",
            prepared=1,
            sums=1,
            specialize=with_fields(fused=True),
            check=f"{_CHECK}:check_attend",
        ),
        Kernel(
            "attend_values",
            f"{_REFERENCE}:attend",
            "not fused: elementwise, value by value",
            specialize=with_fields(fused=False),
            by_autograd=f"{_BY_AUTOGRAD}:attend",
        ),
    )

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.width,),)

    def flops(self, at: CostContext) -> float:
        """Two multiplications of the width per value."""
        return 4 * self.width * self.values(at)

    def saved(self, at: CostContext) -> SavedTensors:
        """The kernel also saves the sum and the log-sum-exps."""
        saved = super().saved(at)
        return saved._replace(outputs=(0,), extra=4 * self.heads) if self.fused else saved

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """fp32 weights and sum, a value; backward, a product, gradients of values outside of slots.

        The kernel needs the sum and the log-sum-exps; backward, gradients of values outside of slots.
        """
        if self.fused:
            return WorkspaceBytes(flow.outputs + 4 * self.heads, flow.grad_inputs, flow.grad_inputs)
        scores, full, copy = 4 * self.heads * self.values(at), 4 * self.width, at.widened * self.width
        forward = self.saved(at).extra + scores + full + copy
        gradient = full if at.stream_bytes < 4 else 0
        backward = 2 * scores + largest(2 * scores, (1 + self.own) * full + copy) + gradient
        return WorkspaceBytes(forward, backward, flow.grad_inputs)
