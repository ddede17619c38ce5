"""Fused operations that many blocks share, and the kernels of projections. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from math import prod
from typing import Any, ClassVar, Literal, Self

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel, Target, with_fields
from blocks.ir.numbers import largest
from blocks.ir.operation import LoopIndex, Operation, expect
from blocks.ir.tensor_type import Shape, TensorType, widest
from blocks.kernels.gpu import off_gpu, off_triton
from blocks.primitives.tiles import LARGEST

_REFERENCE = "blocks.primitives.reference"
_FUSED = "blocks.primitives.fused"
_CHECK = "blocks.primitives.check"


def positions(head_dim: int) -> TensorType:
    """Return the type of a table of rotations: one complex number per position and pair."""
    return TensorType((head_dim,), "fp32", "table")


def unfit(operation: Any, target: Target) -> str:
    """Return why the Triton kernels cannot run an operation, or "" if they can."""
    longer = operation.shape[-1] > LARGEST
    return off_triton(operation, target) or (f"rows are longer than {LARGEST}" if longer else "")


@cache
def project_kernels(outputs: int, bias: bool) -> tuple[Kernel, ...]:
    """Return the kernels of a projection with a number of outputs; each runs one product."""
    function = "project_biased" if bias else "project"
    if outputs == 1:
        why = f"one product of the input and the weight{', and a bias' if bias else ''}"
        plain = Kernel("linear", f"{_REFERENCE}:{function}", why)
    else:
        plain = Kernel(
            "linear_joined",
            f"{_REFERENCE}:{function}_joined",
            f"{outputs} projections of one input as one product; weights joined once per forward",
            prepare=f"{_REFERENCE}:{'join_biased' if bias else 'join'}",
            prepared=1 + bias,
            casts=outputs * (1 + bias),
        )
    first = with_onednn(plain)
    return (first, plain) if bias else (_with_sum(plain, outputs), first, plain)


@cache  # partial functions are equal only if they are the same
def with_onednn(plain: Kernel, function: str = "") -> Kernel:
    """Return the kernel that runs products by oneDNN: the plain function's namesake in `by_onednn.py`."""
    place, _, name = plain.function.partition(":")
    return replace(
        plain,
        name=f"{plain.name}_onednn",
        function=function or f"{place.rpartition('.')[0]}.by_onednn:{name}",
        why=f"{plain.why}; by oneDNN on processors where that is faster",
        unfit=partial(_off_this_cpu, plain.unfit),
    )


def _off_this_cpu(unfit: Callable[[Any, Target], str], operation: Any, target: Target) -> str:
    known = target.device == "cpu" and not target.portable
    return unfit(operation, target) if known else "needs a CPU that is known"


def _with_sum(plain: Kernel, outputs: int) -> Kernel:
    """Return the kernel that accumulates the gradient of the weight over all uses within the product."""
    return Kernel(
        f"{plain.name}_summed",
        plain.function.replace(_REFERENCE, _FUSED),
        f"{plain.why}; gradients of all uses added up in fp32",
        off_gpu,
        prepare=f"{_FUSED}:sum_weight",
        prepared=1,
        casts=outputs,
        sums=outputs,
    )


class Update(Operation):
    """An operation on the update of a residual sum, which that can run itself."""

    def added(self, total: Operation) -> Operation | None:
        """Return the sum that also runs it on its second term, for a `Sum` of two or an `AddNorm`."""


def add_update(total: Operation, position: int, producer: Operation, shared: bool) -> Operation | None:
    """Return a sum that also runs the `Update` that makes its second term, or None."""
    return producer.added(total) if position == 1 and not shared and isinstance(producer, Update) else None


class ResidualSum(Operation):
    """A sum into the residual stream."""

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (TensorType(inputs[0].shape, widest(*inputs)),)

    def before_norm(self, narrow: bool, index: LoopIndex, last: int) -> Operation | None:
        """Return the sum that also makes the norm that begins the next step; None if there is none."""


@dataclass(frozen=True)
class AddNorm(Operation):
    """A residual sum followed by RMSNorm: (a, b) -> norm(a + b), and a + b if `shared`."""

    shape: Shape
    shared: bool
    narrow: bool = False
    """Whether the norm is returned in the autocast dtype."""
    fused: bool = field(default=False, kw_only=True)

    passes_on = 0
    decoding = LOCAL
    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel(
            "triton_add_norm",
            f"{_FUSED}:add_norm",
            "sum and norm by one kernel, each row read once",
            unfit,
            prepare=f"{_FUSED}:sum_gain",
            prepared=1,
            sums=1,
            specialize=with_fields(fused=True),
            check=f"{_CHECK}:check_add_norm",
        ),
        Kernel(
            "add_norm",
            f"{_REFERENCE}:add_norm",
            "a sum, then torch's own RMSNorm",
            specialize=with_fields(fused=False),
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, self.shape)
        total = TensorType(self.shape, widest(*inputs))
        normed = TensorType(self.shape) if self.narrow else total
        return (normed, total) if self.shared else (normed,)

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse what makes the second term, such as a gate."""
        return add_update(self, position, producer, shared)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return (self.shape[-1:],)

    def arguments(self) -> dict[str, Any]:
        return {"narrow": self.narrow, "shared": self.shared}

    def cast_output(self) -> Self:
        return replace(self, narrow=True)

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Also write the sum, for the backward pass, if it is no output."""
        return read + written + (0 if self.shared else at.stream_bytes * prod(self.shape))

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the sum; plain PyTorch also saves one scale per row, and on a CPU the normalized sum."""
        total = 0 if self.shared else at.stream_bytes * prod(self.shape)
        normed = 0 if self.fused or at.device == "cuda" else 4 * prod(self.shape)
        scales = 0 if self.fused else 4 * prod(self.shape[:-1])
        return SavedTensors(outputs=(1,) if self.shared else (), extra=total + normed + scales)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """In the backward pass, plain PyTorch on a CPU allocates three fp32 tensors."""
        several = 0 if self.fused or at.device == "cuda" else 12 * prod(self.shape)
        backward = flow.grad_inputs + several
        return WorkspaceBytes(flow.outputs + self.saved(at).extra, backward, backward)


@dataclass(frozen=True)
class AddBeforeNorm(Operation):
    """The last residual sum of a step and the first norm of the next step: (a, b) -> a + b.

    The norm is attached to the sum for `PrecomputedNorm`, which has the same gain; the last step has none.
    """

    shape: Shape
    narrow: bool
    index: LoopIndex
    last: int
    """The index of the last step."""

    passes_on = 0
    decoding = LOCAL
    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel(
            "triton_add_before_norm",
            f"{_FUSED}:add_before_norm",
            "the sum, and the norm that begins the next step, by one kernel",
            unfit,
            prepare=f"{_FUSED}:sum_gain",
            prepared=1,
            sums=1,
            check=f"{_CHECK}:check_add_norm",
            traceable=False,
        ),
        Kernel("add_before_norm", f"{_REFERENCE}:add_before_norm", "a sum; the next step makes its norm"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, self.shape)
        return (TensorType(self.shape, widest(*inputs)),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return (self.shape[-1:],)

    def arguments(self) -> dict[str, Any]:
        return {"narrow": self.narrow, "index": self.index, "last": self.last}

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Also write the norm."""
        return read + written + self._normed(at)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save nothing itself: `PrecomputedNorm` counts the sum."""
        return SavedTensors()

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the output and its norm exist at the same time; backward, the gradients of inputs."""
        return WorkspaceBytes(flow.outputs + self._normed(at), flow.grad_inputs, flow.grad_inputs)

    def _normed(self, at: CostContext) -> float:
        return (at.compute_bytes if self.narrow else at.stream_bytes) * prod(self.shape)


@dataclass(frozen=True)
class PrecomputedNorm(Operation):
    """The first RMSNorm of a step, precomputed by `AddBeforeNorm` of the previous step: (x) -> x.

    It is computed here if x has none attached, as at the first step.
    """

    shape: Shape
    narrow: bool

    passes_on = 0
    decoding = LOCAL
    kernels = (
        Kernel(
            "precomputed_norm",
            f"{_FUSED}:precomputed_norm",
            "made by the kernel that ends the step before; at the first step torch's own RMSNorm",
            unfit,
            traceable=False,
        ),
        Kernel("norm_made", f"{_REFERENCE}:precomputed_norm", "torch's own RMSNorm"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape)
        return (TensorType(self.shape) if self.narrow else inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return (self.shape[-1:],)

    def arguments(self) -> dict[str, Any]:
        return {"narrow": self.narrow}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input; scales are recomputed."""
        return SavedTensors(inputs=(0,))


@dataclass(frozen=True)
class NormRotate(Operation):
    """RMSNorm of each head followed by rotary embedding: (x, table) -> x."""

    shape: Shape
    fused: bool = field(default=False, kw_only=True)

    decoding = LOCAL
    kernels = (
        Kernel(
            "triton_norm_rotate",
            f"{_FUSED}:norm_rotate",
            "heads normed and turned by one kernel, read where they lie",
            unfit,
            specialize=with_fields(fused=True),
            check=f"{_CHECK}:check_rotary",
        ),
        Kernel(
            "norm_rotate",
            f"{_REFERENCE}:norm_rotate",
            "torch's own RMSNorm, then pairs turned",
            specialize=with_fields(fused=False),
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, positions(self.shape[-1]))
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return (self.shape[-1:],)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input; plain PyTorch also saves one scale per head, and on a CPU the normalized input."""
        normed = 0 if at.device == "cuda" else prod(self.shape)
        return SavedTensors(inputs=(0,), extra=0 if self.fused else 4 * (normed + prod(self.shape[:-1])))

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """The kernel takes any dtype; the reference rotates complex numbers, in fp32."""
        return "any" if self.fused else "fp32"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Plain PyTorch allocates an fp32 product, and three fp32 tensors in the backward pass."""
        if self.fused:
            return super().workspace(at, flow)
        product = 4 * prod(self.shape)
        forward = flow.outputs + self.saved(at).extra + product + flow.casts
        backward = largest(product + flow.casts, 3 * product + flow.grad_inputs)
        return WorkspaceBytes(forward, backward, backward)
