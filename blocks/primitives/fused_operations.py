"""The operations that take over others that many blocks share, and kernels of projections. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from typing import Any, Literal, Self

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel, Target
from blocks.ir.numbers import largest
from blocks.ir.operation import LoopIndex, Operation, expect
from blocks.ir.tensor_type import Shape, TensorType, widest
from blocks.kernels.gpu import off_gpu, off_triton
from blocks.primitives.tiles import LARGEST

_REFERENCE = "blocks.primitives.reference"
_FUSED = "blocks.primitives.fused"
_CHECK = "blocks.primitives.check"


def positions(head_dim: int) -> TensorType:
    """Return the type of a table of rotations: for each position one complex number per pair."""
    return TensorType((head_dim,), "fp32", "table")


def unfit(operation: Any, target: Target) -> str:
    """Return why the Triton kernels of `blocks.primitives` cannot run an operation with a `shape`, or ""."""
    longer = operation.shape[-1] > LARGEST
    return off_triton(target) or (f"rows are longer than {LARGEST}" if longer else "")


def as_fused(operation: Any) -> Any:
    """Return an operation as its Triton kernel runs it."""
    return replace(operation, fused=True)


def as_plain(operation: Any) -> Any:
    """Return an operation as its reference runs it."""
    return replace(operation, fused=False)


@cache
def project_kernels(outputs: int, bias: bool) -> tuple[Kernel, ...]:
    """Return the kernels of a projection into a number of outputs: one product each."""
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
    return (plain,) if bias else (_with_sum(plain, outputs), plain)


def _off_gpu(operation: Any, target: Target) -> str:
    return off_gpu(target)


def _with_sum(plain: Kernel, outputs: int) -> Kernel:
    """Return the kernel that adds up gradients of the weight over all uses, where products can do so."""
    return Kernel(
        f"{plain.name}_summed",
        plain.function.replace(_REFERENCE, _FUSED),
        f"{plain.why}; gradients of all uses added up in fp32",
        _off_gpu,
        prepare=f"{_FUSED}:sum_weight",
        prepared=1,
        casts=outputs,
        sums=outputs,
    )


@dataclass(frozen=True)
class AddNorm(Operation):
    """A residual sum with its RMSNorm: (a, b) -> norm(a + b), and a + b where it is `shared`."""

    shape: Shape
    shared: bool
    narrow: bool = False
    """Whether the norm is returned in the precision of products."""
    fused: bool = field(default=False, kw_only=True)

    decoding = LOCAL
    kernels = (
        Kernel(
            "triton_add_norm",
            f"{_FUSED}:add_norm",
            "sum and norm by one kernel, each row read once",
            unfit,
            prepare=f"{_FUSED}:sum_gain",
            prepared=1,
            sums=1,
            specialize=as_fused,
            check=f"{_CHECK}:check_add_norm",
        ),
        Kernel("add_norm", f"{_REFERENCE}:add_norm", "a sum, then torch's own RMSNorm", specialize=as_plain),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the common shape, once or twice."""
        expect(self, inputs, self.shape, self.shape)
        total = TensorType(self.shape, widest(*inputs))
        normed = TensorType(self.shape) if self.narrow else total
        return (normed, total) if self.shared else (normed,)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return (self.shape[-1:],)

    def arguments(self) -> dict[str, Any]:
        return {"narrow": self.narrow, "shared": self.shared}

    def passthrough(self, output: int) -> int | None:
        """Skipped, it leaves the sum's first term as it is, and does not norm it."""
        return 0

    def cast_output(self) -> Self:
        """Return it narrow."""
        return replace(self, narrow=True)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the sum; in plain PyTorch one scale for each row too, and on a CPU the normalised sum."""
        total = 0 if self.shared else at.stream_bytes * prod(self.shape)
        normed = 0 if self.fused or at.device == "cuda" else 4 * prod(self.shape)
        scales = 0 if self.fused else 4 * prod(self.shape[:-1])
        return SavedTensors(outputs=(1,) if self.shared else (), extra=total + normed + scales)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, plain PyTorch on a CPU holds three tensors in fp32."""
        several = 0 if self.fused or at.device == "cuda" else 12 * prod(self.shape)
        backward = flow.grad_inputs + several
        return WorkspaceBytes(flow.outputs + self.saved(at).extra, backward, backward)


@dataclass(frozen=True)
class AddBeforeNorm(Operation):
    """The residual sum that ends a step, with the norm that begins the next one: (a, b) -> a + b.

    The norm goes along with the sum to `PrecomputedNorm`, which has the same gain. The last step makes none.
    """

    shape: Shape
    narrow: bool
    index: LoopIndex
    last: int
    """The number of the last step."""

    decoding = LOCAL
    kernels = (
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
        """Write the norm, too."""
        return read + written + self._normed(at)

    def passthrough(self, output: int) -> int | None:
        """Skipped, it leaves the sum's first term as it is."""
        return 0

    def saved(self, at: CostContext) -> SavedTensors:
        """Save nothing else: the norm that is given the sum says that it is kept."""
        return SavedTensors()

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The norm stands beside the sum."""
        return WorkspaceBytes(flow.outputs + self._normed(at), flow.grad_inputs, flow.grad_inputs)

    def _normed(self, at: CostContext) -> float:
        return (at.compute_bytes if self.narrow else at.stream_bytes) * prod(self.shape)


@dataclass(frozen=True)
class PrecomputedNorm(Operation):
    """The RMSNorm that begins a step, as the `AddBeforeNorm` of the step before made it: (x) -> x.

    The first step, and any that finds none, makes it.
    """

    shape: Shape
    narrow: bool

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

    def passthrough(self, output: int) -> int | None:
        """A skipped norm leaves its input as it is."""
        return 0

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input; scales are made again."""
        return SavedTensors(inputs=(0,))


@dataclass(frozen=True)
class NormRotate(Operation):
    """RMSNorm of each head and its rotation over the sequence: (x, table) -> x."""

    shape: Shape
    fused: bool = field(default=False, kw_only=True)

    decoding = LOCAL
    kernels = (
        Kernel(
            "triton_norm_rotate",
            f"{_FUSED}:norm_rotate",
            "heads normed and turned by one kernel, read where they lie",
            unfit,
            specialize=as_fused,
            check=f"{_CHECK}:check_rotary",
        ),
        Kernel(
            "norm_rotate",
            f"{_REFERENCE}:norm_rotate",
            "torch's own RMSNorm, then pairs turned",
            specialize=as_plain,
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, positions(self.shape[-1]))
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return (self.shape[-1:],)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input; in plain PyTorch one scale for each head too, and on a CPU the normalised input."""
        normed = 0 if at.device == "cuda" else prod(self.shape)
        return SavedTensors(inputs=(0,), extra=0 if self.fused else 4 * (normed + prod(self.shape[:-1])))

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """One kernel, or complex numbers, which are pairs in fp32."""
        return "any" if self.fused else "fp32"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """In plain PyTorch the product is in fp32, and backward three tensors."""
        if self.fused:
            return super().workspace(at, flow)
        product = 4 * prod(self.shape)
        forward = flow.outputs + self.saved(at).extra + product + flow.casts
        backward = largest(product + flow.casts, 3 * product + flow.grad_inputs)
        return WorkspaceBytes(forward, backward, backward)
