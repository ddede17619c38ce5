"""Operations that many blocks share: norms, projections, rotary embedding, sums. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel, with_fields
from blocks.ir.numbers import largest
from blocks.ir.operation import ORIGIN, LoopIndex, Operation, expect
from blocks.ir.tensor_type import Shape, TensorType, widest
from blocks.primitives.fused_operations import (
    AddBeforeNorm,
    AddNorm,
    NormRotate,
    ResidualSum,
    add_update,
    positions,
    project_kernels,
    unfit,
)

_REFERENCE = "blocks.primitives.reference"


def step_angles(head_dim: int) -> TensorType:
    """Return the type of the rotation angles of one step, one per pair."""
    return TensorType((head_dim // 2,), "fp32", "constant")


@dataclass(frozen=True)
class Input(SavesNothing, Operation):
    """An input of a graph."""

    type: TensorType

    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (self.type,)


@dataclass(frozen=True)
class Norm(Operation):
    """RMSNorm over the last dimension (Zhang and Sennrich, arXiv 1910.07467), eps 1e-6."""

    shape: Shape

    passes_on = 0
    decoding = LOCAL
    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel("rms_norm", f"{_REFERENCE}:rms_norm", "torch's own RMSNorm"),
        Kernel("rms_norm_plain", f"{_REFERENCE}:rms_norm_plain", "reference: mean of squares, rsqrt, gain"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape)
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return (self.shape[-1:],)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input, one scale per row, and on a CPU the normalized input."""
        normed = 0 if at.device == "cuda" else prod(self.shape)
        return SavedTensors(inputs=(0,), extra=4 * (normed + prod(self.shape[:-1])))

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """One kernel on a GPU; several on a CPU, in fp32."""
        return "any" if at.device == "cuda" else "fp32"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, three fp32 tensors besides the saved ones; a result in a narrower dtype is cast last."""
        if at.device == "cuda":
            return super().workspace(at, flow)
        forward = flow.outputs + self.saved(at).extra + 2 * flow.casts
        backward = 4 * (3 * prod(self.shape) - prod(self.shape[:-1])) + (
            flow.grad_inputs if flow.casts else 0
        )
        return WorkspaceBytes(forward, backward, backward)

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse a sum of two."""
        sums = isinstance(producer, Sum) and producer.terms == 2 and len(self.shape) == 1
        return AddNorm(self.shape, shared) if sums else None


@dataclass(frozen=True)
class LayerNorm(Operation):
    """LayerNorm over the last dimension (Ba et al., arXiv 1607.06450), eps 1e-5; `shift` adds a bias."""

    shape: Shape
    shift: bool

    passes_on = 0
    decoding = LOCAL
    kernels = (Kernel("layer_norm", f"{_REFERENCE}:layer_norm", "torch's own LayerNorm"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape)
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return the shape of the gain, and of the shift if there is one."""
        return (self.shape[-1:],) * (1 + self.shift)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input, and a mean and a scale per row in the dtype of weights."""
        return SavedTensors(inputs=(0,), extra=2 * at.weight_bytes * prod(self.shape[:-1]))


@dataclass(frozen=True)
class Project(Operation):
    """One matrix product of the input [fan_in] with the weights of one or several outputs.

    There is one weight [elements, fan_in] per output, with `bias` followed by one bias [elements] per output.
    The weights of several outputs are joined once per forward pass.
    """

    fan_in: int
    outputs: tuple[Shape, ...]
    bias: bool = False

    shares_storage = True
    decoding = LOCAL

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """Each runs one product."""
        return project_kernels(len(self.outputs), self.bias)

    @property
    def width(self) -> int:
        """The total number of elements of all outputs."""
        return sum(prod(shape) for shape in self.outputs)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the outputs; the input may be split into heads."""
        if len(inputs) != 1 or not inputs[0].is_float or inputs[0].size != self.fan_in:
            expect(self, inputs, (self.fan_in,))
        return tuple(map(TensorType, self.outputs))

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [elements, fan_in] per output, then [elements] per bias."""
        sizes = tuple(map(prod, self.outputs))
        return tuple((size, self.fan_in) for size in sizes) + tuple((size,) for size in sizes if self.bias)

    def arguments(self) -> dict[str, Any]:
        return {"shape": self.outputs[0]} if len(self.outputs) == 1 else {"shapes": self.outputs}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input."""
        return SavedTensors(inputs=(0,))

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Autocast casts the inputs of products."""
        return "compute"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward, the gradient of the input, or those of several outputs concatenated, if larger."""
        product = at.compute_bytes * self.fan_in
        forward = flow.outputs + flow.casts
        if len(self.outputs) > 1:
            return WorkspaceBytes(forward, largest(product, flow.outputs), product)
        return WorkspaceBytes(forward, product, product, until_end=True)


@dataclass(frozen=True)
class Rotate(SavesNothing, Operation):
    """Rotary position embedding (Su et al., arXiv 2104.09864) over the sequence: (x, table) -> x."""

    shape: Shape
    fused: bool = field(default=False, kw_only=True)

    decoding = LOCAL
    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel(
            "triton_rotate",
            "blocks.primitives.fused:rotate",
            "pairs turned by one kernel, read where they lie",
            unfit,
            specialize=with_fields(fused=True),
            check="blocks.primitives.check:check_rotary",
        ),
        Kernel(
            "rotate",
            f"{_REFERENCE}:rotate",
            "pairs turned by each token's row of the table",
            specialize=with_fields(fused=False),
        ),
    )

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the norm of each head."""
        norms = type(self) is Rotate and type(producer) is Norm and not shared
        return NormRotate(self.shape) if norms else None

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, self._angles())
        return (inputs[0],)

    def _angles(self) -> TensorType:
        return positions(self.shape[-1])

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """The kernel takes any dtype; the reference rotates complex numbers, in fp32."""
        return "any" if self.fused else "fp32"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The reference computes an fp32 product and casts it; the kernel needs no workspace."""
        if self.fused:
            return super().workspace(at, flow)
        product = 4 * prod(self.shape)
        narrow = flow.outputs if flow.casts else 0
        backward = product + flow.casts - narrow
        return WorkspaceBytes(product + flow.casts + narrow, backward, backward)


@dataclass(frozen=True)
class RotatePart(Rotate):
    """Rotary position embedding of the first `rotated` elements of each head: (x, table) -> x."""

    rotated: int

    kernels = (
        Kernel(
            "rotate_part",
            f"{_REFERENCE}:rotate_part",
            "the first pairs of each head turned; no kernel of our own turns a part",
        ),
    )

    def _angles(self) -> TensorType:
        return positions(self.rotated)

    def arguments(self) -> dict[str, Any]:
        return {"rotated": self.rotated}

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """It casts the rotated elements to fp32 itself."""
        return "any"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Copies of the rotated elements, in fp32 under autocast, until they are joined with the rest."""
        elements = prod(self.shape[:-1]) * self.rotated
        turned, wide = at.compute_bytes * elements, 2 * at.widened * elements
        forward = largest(wide + (turned if wide else 0), turned + flow.outputs)
        backward = largest(wide, turned + flow.grad_inputs)
        return WorkspaceBytes(forward, backward, backward)


@dataclass(frozen=True)
class RotateAt(RotatePart):
    """Rotary position embedding of selected tokens: (x, table, indices in the flattened batch) -> x."""

    kernels = (
        Kernel(
            "rotate_at",
            f"{_REFERENCE}:rotate_at",
            "pairs rotated by the rows of their tokens, whose number varies",
            traceable=False,
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs[2:], TensorType((), "int"))
        return super().types(inputs[:2])

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the rows of the table."""
        return SavedTensors(extra=4 * self.rotated)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, also the rows of the table."""
        workspace = super().workspace(at, flow)
        return workspace._replace(forward=workspace.forward + 4 * self.rotated)


@dataclass(frozen=True)
class RotateStep(Rotate):
    """Rotary position embedding over depth, by the angles of the current step: (x, angles) -> x."""

    index: LoopIndex = ORIGIN

    kernels = (Kernel("rotate_step", f"{_REFERENCE}:rotate_step", "pairs turned by the step's angles"),)

    def _angles(self) -> TensorType:
        return step_angles(self.shape[-1])

    def arguments(self) -> dict[str, Any]:
        return {"index": self.index}


@dataclass(frozen=True)
class SequenceTable(SavesNothing, Operation):
    """The rotations of all positions of the sequence: (tokens) -> table.

    Positions are divided by `scale`.
    """

    head_dim: int
    base: float
    scale: float = 1.0

    decoding = "blocks.primitives.decoding:next_sequence_rows"
    kernels = (Kernel("sequence_table", f"{_REFERENCE}:sequence_table", "made once per forward, in fp32"),)
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (positions(self.head_dim),)

    def arguments(self) -> dict[str, Any]:
        scale = {"scale": self.scale} if self.scale != 1 else {}
        return {"head_dim": self.head_dim, "base": self.base, **scale}


@dataclass(frozen=True)
class StepTable(SavesNothing, Operation):
    """The rotation angle of each pair per step: (tokens) -> angles. Tokens only determine the device."""

    head_dim: int
    base: float

    decoding = LOCAL
    kernels = (Kernel("step_table", f"{_REFERENCE}:step_table", "made once per forward, in fp32"),)
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        return (step_angles(self.head_dim),)

    def arguments(self) -> dict[str, Any]:
        return {"head_dim": self.head_dim, "base": self.base}


@dataclass(frozen=True)
class AddStepBias(SavesNothing, Operation):
    """Add the row of the current step of a learned bias [steps, width]: (x) -> y."""

    width: int
    steps: int
    index: LoopIndex

    gradients = "passed"
    decoding = LOCAL
    kernels = (Kernel("add_step_bias", f"{_REFERENCE}:add_step_bias", "one row added to every token"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,))
        return (TensorType((self.width,), widest(*inputs, "stream")),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.steps, self.width),)

    def flops(self, at: CostContext) -> float:
        """There is no matrix product."""
        return 0.0

    def arguments(self) -> dict[str, Any]:
        return {"index": self.index}


@dataclass(frozen=True)
class Sum(SavesNothing, ResidualSum):
    """Add values of equal shape, such as residuals or the branches of a parallel mix."""

    shape: Shape
    terms: int = 2

    passes_on = 0
    gradients = "passed"
    decoding = LOCAL
    kernels = (Kernel("add", f"{_REFERENCE}:add", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, *[self.shape] * self.terms)
        return super().types(inputs)

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse what makes the second of two terms, such as a gate."""
        return add_update(self, position, producer, shared) if self.terms == 2 else None

    def before_norm(self, narrow: bool, index: LoopIndex, last: int) -> Operation | None:
        """Return the sum of two terms that also makes the norm."""
        return AddBeforeNorm(self.shape, narrow, index, last) if self.terms == 2 else None

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the sum, and with more than two terms also the partial sum before it."""
        return WorkspaceBytes((2 if self.terms > 2 else 1) * flow.outputs, flow.grad_inputs, flow.grad_inputs)
