"""Operations of a tied stage with separate weights per step. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.fused_operations import with_onednn
from blocks.primitives.operations import LayerNorm, Norm

_REFERENCE = "blocks.primitives.reference"


@dataclass(frozen=True)
class NormStep(Norm):
    """RMSNorm with a separate gain per step."""

    steps: int
    index: LoopIndex

    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel("rms_norm_step", f"{_REFERENCE}:rms_norm_step", "torch's own RMSNorm, a gain for each step"),
    )

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.steps, *self.shape[-1:]),)

    def flops(self, at: CostContext) -> float:
        """There is no matrix product."""
        return 0.0

    def arguments(self) -> dict[str, Any]:
        return {"index": self.index}

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """There is no fused version."""
        return None


@dataclass(frozen=True)
class LayerNormStep(LayerNorm):
    """LayerNorm with a separate gain, and with `shift` a separate bias, per step."""

    steps: int
    index: LoopIndex

    kernels = (Kernel("layer_norm_step", f"{_REFERENCE}:layer_norm_step", "torch's own LayerNorm"),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return the shape of the gains, and of the biases if there are any."""
        return tuple((self.steps, *shape) for shape in super().weight_shapes())

    def flops(self, at: CostContext) -> float:
        """There is no matrix product."""
        return 0.0

    def arguments(self) -> dict[str, Any]:
        return {"index": self.index}


@dataclass(frozen=True)
class ProjectAdapted(Operation):
    """A projection of the input [fan_in] with a low-rank adapter per step, (W + B A) x: (x) -> y.

    The matrices are added once per execution, for all tokens of a micro-batch.
    """

    fan_in: int
    shape: Shape
    bias: bool
    rank: int
    steps: int
    index: LoopIndex
    tokens: int

    decoding = LOCAL

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """The adapter is added to the weight before the product."""
        plain = Kernel(
            "project_adapted",
            f"{_REFERENCE}:project_adapted",
            "the step's adapter added to the weight in fp32, then one product",
            prepare=f"{_REFERENCE}:by_step",
            prepared=3 + self.bias,
        )
        return with_onednn(plain), plain

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the output; the input may be split into heads."""
        if len(inputs) != 1 or not inputs[0].is_float or inputs[0].size != self.fan_in:
            expect(self, inputs, (self.fan_in,))
        return (TensorType(self.shape),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of the weight, of A and B of all steps, and of the bias if there is one."""
        size, rows = prod(self.shape), self.steps * self.rank
        adapters = (rows, self.fan_in), (self.steps * size, self.rank)
        return ((size, self.fan_in), *adapters, *(((size,),) if self.bias else ()))

    def flops(self, at: CostContext) -> float:
        """Return those of the product, and a token's share of those of B A."""
        ran = self.tokens * at.context / (at.sequence or at.context)
        return 2 * prod(self.shape) * self.fan_in * (1 + self.rank / ran)

    def arguments(self) -> dict[str, Any]:
        return {"shape": self.shape, "index": self.index}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input and the sum of the weight and its adapter."""
        return SavedTensors(inputs=(0,), once=at.compute_bytes * prod(self.shape) * self.fan_in)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Autocast casts the inputs of products."""
        return "compute"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the output and the sum, cast under autocast; backward, the gradients of input and sum."""
        weight = prod(self.shape) * self.fan_in / at.tokens
        merged = at.compute_bytes * weight
        wide = at.widened * weight
        product = at.compute_bytes * self.fan_in
        return WorkspaceBytes(
            flow.outputs + flow.casts + wide + merged, product + merged, product + merged, until_end=True
        )


@dataclass(frozen=True)
class ScaleStep(Operation):
    """Multiply by a separate learned factor per step: (x) -> y."""

    shape: Shape
    steps: int
    index: LoopIndex

    decoding = LOCAL
    kernels = (Kernel("scale_step", f"{_REFERENCE}:scale_step", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape)
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.steps,),)

    def arguments(self) -> dict[str, Any]:
        return {"index": self.index}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input."""
        return SavedTensors(inputs=(0,))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, the summands of the factor's gradient are allocated beside the input's gradient."""
        return WorkspaceBytes(flow.outputs, flow.grad_inputs + flow.outputs, flow.grad_inputs)
