"""What an operation costs, per token and execution. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import ClassVar, Literal, NamedTuple

from blocks.ir.meaning import Meaning
from blocks.ir.numbers import total
from blocks.ir.steps import OneStep
from blocks.ir.tensor_type import Element


@dataclass(frozen=True, slots=True)
class CostContext:
    """The place a cost is asked for.

    Attributes:
        context: tokens of the sequence.
        trips: trip count of each loop around the operation, by index name, or one step of it.
        stream_bytes: bytes of an element of the residual stream (always fp32: 4).
        compute_bytes: bytes of an element inside a block (4, or 2 under bf16).
        weight_bytes: bytes of an element of weights.
        device: what it runs on, where that decides what a kernel keeps.
        full_mask: count causal attention as the full square, as FLOP counters do.
        tokens: of a micro-batch, where it is asked for what an operation needs while it runs.
        again: whether the operation runs again in the backward pass. What it makes then goes as soon as a
            function of the backward pass has read it; what is kept stays until gradients have been cast.
        sequence: tokens of the sequence where `context` is the number of some of them that the operation runs
            on; 0 where it runs on all.
    """

    context: int
    trips: Mapping[str, int | OneStep] = field(default_factory=dict)
    stream_bytes: int = 4
    compute_bytes: int = 4
    weight_bytes: int = 4
    device: Literal["cpu", "cuda"] = "cpu"
    full_mask: bool = False
    tokens: int = 1
    again: bool = False
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

    @property
    def widened(self) -> int:
        """Bytes of an element of the fp32 copy of what a block computes; 0 where that is fp32 already."""
        return 4 if self.compute_bytes < 4 else 0


class SavedTensors(NamedTuple):
    """What an operation keeps for its backward pass.

    `inputs` and `outputs` are positions of values that are kept as they are (counted once however many
    operations keep them); `extra` is bytes per token of tensors that nothing else sees; `once` is bytes that
    are kept at each execution whatever the tokens.
    """

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    extra: float = 0.0
    once: float = 0.0


class IOBytes(NamedTuple):
    """Bytes per token of what flows through an operation.

    Attributes:
        given: the gradients of its inputs that its backward pass makes.
        made: its outputs.
        copied: copies of its inputs in the precision that it works in.
    """

    given: float
    made: float
    copied: float


class WorkspaceBytes(NamedTuple):
    """Bytes per token that are alive at most while an operation runs, above what was alive before.

    Attributes:
        forward: outputs and what is kept included.
        backward: gradients of the inputs included, those of weights left out; the gradients of its outputs
            and what it kept were alive before and go while it runs.
        weights: the same at the moment when all gradients of its weights are there.
        until_end: whether the gradients of its outputs stay until it ends.
        early: what its backward pass makes of the gradients of its outputs, and lets these go, before it asks
            for what was kept: it is there while an operation runs again.
    """

    forward: float
    backward: float
    weights: float
    until_end: bool = False
    early: float = 0.0


class CostModel(Meaning):
    """What an operation costs. The defaults hold for a matrix product, and else rather count too much."""

    reads_weights: ClassVar[bool] = True
    """Whether it reads all of its weights, which a lookup does not."""

    shares_storage: ClassVar[bool] = False
    """Whether all its outputs lie in one storage."""

    gradients: ClassVar[Literal["own", "joint", "passed", "none"]] = "own"
    """Where gradients of its inputs lie: each alone, all in one storage, or where that of its output lies.

    `none`: they have none through it, since it reads nothing but their shape and precision.
    """

    constants: ClassVar[tuple[int, ...]] = ()
    """Positions of float inputs that have no gradient."""

    def flops(self, at: CostContext) -> float:
        """Return the FLOPs of its matrix products, forward, per token and execution.

        Default: two for each element of a weight that has two axes or more and is read as a whole.
        """
        if not self.reads_weights:
            return 0.0
        return 2 * total(prod(shape) for shape in self.weight_shapes() if len(shape) > 1)

    def backward_flops(self, at: CostContext) -> float:
        """Return the same for the backward pass: two products for each product forward."""
        return 2 * self.flops(at)

    def saved(self, at: CostContext) -> SavedTensors | None:
        """Return what is kept for the backward pass. Default, None: all that it reads and makes."""
        return None

    def traffic(self, at: CostContext, given: float, made: float) -> float:
        """Return the bytes per token that it reads and writes forward, `given` and `made` by its values.

        Weights come on top, once per execution.
        """
        return given + made

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Return the precision it works in, fp32 at least; of a value in another it makes a copy."""
        return "any"

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Return what it needs while it runs: its outputs, what it keeps, copies in its precision."""
        saved = self.saved(at) or SavedTensors()
        return WorkspaceBytes(flow.made + saved.extra + flow.copied, flow.given, flow.given)

    def sequence_cache(self, at: CostContext) -> int:
        """Return the elements per token of the context that generation keeps for later tokens."""
        return 0


class SavesNothing(CostModel):
    """The costs of an operation whose backward pass needs none of its values, such as a sum."""

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep nothing."""
        return SavedTensors()
