"""The cost model of an operation: FLOPs and bytes per token and execution. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar, Literal, NamedTuple

from blocks.ir.meaning import Meaning
from blocks.ir.numbers import total
from blocks.ir.steps import OneStep
from blocks.ir.tensor_type import Element


class CostContext(NamedTuple):
    """The sizes and settings at which a cost is evaluated.

    Attributes:
        context: tokens of the sequence.
        trips: trip count of each loop around the operation, by index name, or one step of it.
        stream_bytes: bytes of an element of the residual stream (always fp32: 4).
        compute_bytes: bytes of an element inside a block (4, or 2 under bf16).
        weight_bytes: bytes of an element of weights.
        device: the device, since some kernels save other tensors on a GPU.
        full_mask: count causal attention as the full square, as FLOP counters do.
        tokens: tokens of a micro-batch, for workspace.
        recomputed: whether the operation runs again in the backward pass. Its outputs are then freed as soon
            as the backward function has read them; saved tensors live until gradients have been cast.
        sequence: tokens of the whole sequence if the operation runs on `context` selected tokens of it,
            else 0.
    """

    context: int
    trips: Mapping[str, int | OneStep] = {}
    stream_bytes: int = 4
    compute_bytes: int = 4
    weight_bytes: int = 4
    device: Literal["cpu", "cuda"] = "cpu"
    full_mask: bool = False
    tokens: int = 1
    recomputed: bool = False
    sequence: int = 0

    def element_bytes(self, element: Element) -> int:
        """Return the bytes of an element."""
        match element:
            case "compute":
                return self.compute_bytes
            case "stream":
                return self.stream_bytes
            case _:
                return {"none": 0, "bool": 1, "fp32": 4, "int": 8}[element]

    def cast_bytes(self, elements: int) -> float:
        """Return the bytes of a weight's copy in compute precision, if that is narrower."""
        return self.compute_bytes * elements if self.compute_bytes < self.weight_bytes else 0

    @property
    def widened(self) -> int:
        """Bytes of an element of an fp32 copy of a value in compute precision; 0 if that is fp32 already."""
        return 4 if self.compute_bytes < 4 else 0


class SavedTensors(NamedTuple):
    """The tensors that an operation saves for its backward pass.

    Attributes:
        inputs: positions of inputs that are saved without a copy; a value saved by several operations counts
            once.
        outputs: positions of outputs, likewise.
        extra: bytes per token of other saved tensors.
        once: bytes saved at each execution, independent of the number of tokens.
    """

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    extra: float = 0.0
    once: float = 0.0


class IOBytes(NamedTuple):
    """Bytes per token of the tensors around an operation.

    Attributes:
        grad_inputs: gradients of its inputs, which its backward pass allocates.
        outputs: its outputs.
        casts: copies of its inputs in the precision it computes in.
    """

    grad_inputs: float
    outputs: float
    casts: float


class WorkspaceBytes(NamedTuple):
    """Peak bytes per token that an operation adds to the memory in use before it runs.

    Attributes:
        forward: the peak of the forward pass, outputs and saved tensors included.
        backward: the peak of the backward pass, with gradients of inputs and without those of weights. The
            gradients of its outputs and its saved tensors were in use before, and are freed while it runs.
        weights: the same once the gradients of all its weights exist.
        until_end: whether the gradients of its outputs are freed only when it ends.
        early: bytes that the backward pass allocates, in place of the gradients of its outputs, before it
            unpacks saved tensors; in use while those are recomputed.
    """

    forward: float
    backward: float
    weights: float
    until_end: bool = False
    early: float = 0.0


class CostModel(Meaning):
    """What an operation costs. The defaults are exact for a matrix product and an upper bound otherwise."""

    reads_weights: ClassVar[bool] = True
    """Whether it reads all elements of its weights; False for a lookup."""

    shares_storage: ClassVar[bool] = False
    """Whether all its outputs are views of one storage."""

    gradients: ClassVar[Literal["own", "joint", "passed", "none"]] = "own"
    """Storage of the gradients of its inputs: one each (`own`), one for all (`joint`), or that of the
    gradient of its output (`passed`). `none`: inputs get no gradient, since only their shape and dtype are
    read.
    """

    constants: ClassVar[tuple[int, ...]] = ()
    """Positions of float inputs without a gradient."""

    def flops(self, at: CostContext) -> float:
        """Return the FLOPs of the forward matrix products, per token and execution.

        Default: two per element of each weight with at least two dimensions, 0 for a lookup.
        """
        if not self.reads_weights:
            return 0.0
        return 2 * total(prod(shape) for shape in self.weight_shapes() if len(shape) > 1)

    def backward_flops(self, at: CostContext) -> float:
        """Return the FLOPs of the backward pass. Default: two products for each forward product."""
        return 2 * self.flops(at)

    def saved(self, at: CostContext) -> SavedTensors | None:
        """Return the tensors that one execution keeps for its backward pass, a part of training memory.

        Inputs and outputs that are saved as they are go by position; the rest is in bytes, per token or per
        execution (see `SavedTensors`). Default: None, which counts all inputs and outputs as saved.
        """
        return None

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Return the bytes per token that the forward pass moves; weights are added once per execution.

        Args:
            at: where the cost is evaluated.
            read: bytes of all inputs.
            written: bytes of all outputs.
        """
        return read + written

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Return the precision it computes in; inputs in another precision are cast, which is a copy."""
        return "any"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Return the peak of memory allocated while it runs, temporary tensors included, in bytes per token.

        It decides whether an operation is where training memory peaks. The docstring of an override names
        the tensors that exist at the peak. Default: outputs, saved tensors and casts of inputs in the forward
        pass, gradients of inputs in the backward pass.

        Args:
            at: where the cost is evaluated.
            flow: bytes per token of inputs' gradients, outputs and casts.
        """
        saved = self.saved(at) or SavedTensors()
        return WorkspaceBytes(flow.outputs + saved.extra + flow.casts, flow.grad_inputs, flow.grad_inputs)

    def sequence_cache(self, at: CostContext) -> int:
        """Return the cached elements (not bytes) per token of the context, such as keys and values.

        A cache of fixed size is divided by `at.context`, the number of tokens it is averaged over.
        """
        return 0


class SavesNothing(CostModel):
    """The costs of an operation that saves no tensors for its backward pass, such as a sum."""

    def saved(self, at: CostContext) -> SavedTensors:
        """Return no tensors."""
        return SavedTensors()
