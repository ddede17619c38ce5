"""What an operation is: its types, weights, costs and kernels. Torch-free.

Operations are values (frozen dataclasses): a pass rewrites a graph by replacing them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, ClassVar, Literal, NamedTuple

from blocks.ir.steps import StepCount
from blocks.ir.tensor_type import Element, Shape, TensorType


class Value(NamedTuple):
    """One output of one node of a graph."""

    node: str
    output: int = 0


@dataclass(frozen=True, slots=True)
class Init:
    """How a weight starts: `normal` (scale = standard deviation), `constant` (scale = value) or `eye`.

    `eye` is [I, 0, ...]: the identity on the first columns, zero elsewhere.
    """

    kind: Literal["normal", "constant", "eye"]
    scale: float = 1.0


ZEROS = Init("constant", 0.0)


@dataclass(frozen=True, slots=True)
class Weight:
    """A trained tensor, or with `trained=False` a state that is kept beside the weights.

    Attributes:
        role: what it is within its block, such as `query`; the last part of its name.
        decay: whether weight decay applies (not to norms and biases).
        writes_residual: it projects into the residual stream, so its scale shrinks with depth.
        active: the share of it that one token uses, as (numerator, denominator).
        saved: whether it belongs into a checkpoint; a state that does not is a counter of the training
            pass, and its operation gets None outside of it.
        block: name of the block it belongs to, set by the builder.
    """

    role: str
    shape: Shape
    init: Init
    decay: bool = True
    writes_residual: bool = False
    active: tuple[int, int] = (1, 1)
    trained: bool = True
    saved: bool = True
    block: str = ""

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class LoopIndex:
    """An index that grows with the loops around it: base + sum of stride times loop index + `counts`.

    `counts` are terms that grow only at some steps of a loop, since an operation runs only there.
    """

    base: int = 0
    strides: tuple[tuple[str, int], ...] = ()
    counts: tuple[StepCount, ...] = ()

    def mean(self, trips: Mapping[str, int]) -> float:
        """Return the mean over all executions, exactly: each index runs over 0 .. trips - 1."""
        mean = self.base + sum(stride * (trips[loop] - 1) / 2 for loop, stride in self.strides)
        for count in self.counts:
            mean = mean + count.mean(trips[count.loop])
        return mean

    def __add__(self, offset: int) -> LoopIndex:
        return LoopIndex(self.base + offset, self.strides, self.counts)

    def plus(self, count: StepCount) -> LoopIndex:
        """Return the index with one more count; counts of the same steps are added up."""
        same = [each for each in self.counts if replace(each, stride=0) == replace(count, stride=0)]
        others = tuple(each for each in self.counts if each not in same)
        stride = sum(each.stride for each in (*same, count))
        added = (replace(count, stride=stride),) if stride else ()
        return LoopIndex(self.base, self.strides, (*others, *added))

    def from_step(self, loop: str, first: int, after: int, trips: int) -> LoopIndex:
        """Return the index for steps `first` to `after` - 1 of a loop, counted from 0.

        Raises:
            ValueError: it does not grow evenly between these steps.
        """
        base = self.base + sum(stride * first for name, stride in self.strides if name == loop)
        strides, last = self.strides, after - 1
        for count in self.counts:
            if count.loop == loop:
                start, grown = count.at(first, trips), count.at(last, trips) - count.at(first, trips)
                if grown not in (0, count.stride * (last - first)):
                    raise ValueError(f"{self} does not grow evenly from step {first} to {last}")
                base, strides = base + start, (*strides, (loop, count.stride if grown else 0))
        return LoopIndex(base, strides, tuple(count for count in self.counts if count.loop != loop))

    def __str__(self) -> str:
        terms = [loop if stride == 1 else f"{stride}*{loop}" for loop, stride in self.strides]
        terms += map(str, self.counts)
        return " + ".join([*terms, str(self.base)] if self.base or not terms else terms)


ORIGIN = LoopIndex()
"""Where an index stands before the pass that numbers slots has run."""


@dataclass(frozen=True, slots=True)
class CostContext:
    """The place a cost is asked for.

    Attributes:
        context: tokens of the sequence.
        trips: trip count of each loop around the operation, by index name.
        stream_bytes: bytes of an element of the residual stream (always fp32: 4).
        compute_bytes: bytes of an element inside a block (4, or 2 under bf16).
        weight_bytes: bytes of an element of weights.
        device: what it runs on, where that decides what a kernel keeps.
        full_mask: count causal attention as the full square, as FLOP counters do.
        tokens: of a micro-batch, where it is asked for what an operation needs while it runs.
    """

    context: int
    trips: Mapping[str, int] = field(default_factory=dict)
    stream_bytes: int = 4
    compute_bytes: int = 4
    weight_bytes: int = 4
    device: Literal["cpu", "cuda"] = "cpu"
    full_mask: bool = False
    tokens: int = 1

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
    """

    forward: float
    backward: float
    weights: float


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan is made for.

    Attributes:
        device: what runs it, as torch calls the kind: cpu, cuda.
        dtype: what products are made in: float32, bfloat16, float16.
        here: whether that device is at hand, so that kernels are tried before they are used.
    """

    device: str = "cpu"
    dtype: str = "float32"
    here: bool = False


def _fits(operation: Any, target: Target) -> str:
    return ""


def _as_it_is(operation: Any) -> Any:
    return operation


@dataclass(frozen=True, slots=True)
class Kernel:
    """One way to run an operation.

    Attributes:
        function: `package.module:name`, called with inputs, weights (or what `prepare` made of them) and
            the operation's arguments; imported only when a module is emitted.
        why: what speaks for it, in words for the plan.
        unfit: returns why it cannot run an operation on a target, or "".
        prepare: `package.module:name` of what is done to the weights once per forward pass, or "".
        prepared: how many tensors `prepare` returns.
        casts: how many weights, the first ones, `prepare` casts to the precision of products.
        specialize: returns the operation with the costs it has when this kernel runs it.
        dtypes: what products it can make; all where none is named.
        unused_inputs: positions of the inputs that it does without; what nothing else reads is not made.
        check: `package.module:name` of its self-test, which a kernel of our own has, or "". Called with an
            operation (None: one of its own choosing) and a target, it runs the kernel on one tile against
            the reference there and returns what is wrong, or "".
        traceable: whether torch.compile can trace it, which needs shapes that do not depend on data. Taken to
            be false for kernels with a self-test, operations that cannot be recomputed, and loop indices.
        compiled: `package.module:name` of what runs in its place where torch compiles, which cannot trace it,
            or "".
    """

    name: str
    function: str
    why: str
    unfit: Callable[[Any, Target], str] = _fits
    prepare: str = ""
    prepared: int = 0
    casts: int = 0
    specialize: Callable[[Any], Any] = _as_it_is
    dtypes: tuple[str, ...] = ()
    unused_inputs: tuple[int, ...] = ()
    check: str = ""
    traceable: bool = True
    compiled: str = ""


class Operation:
    """The base of operations. A subclass is a frozen dataclass of its sizes."""

    kernels: ClassVar[tuple[Kernel, ...]] = ()
    """Best first; the last is the plain-PyTorch reference and fits everything."""

    reads_weights: ClassVar[bool] = True
    """Whether it reads all of its weights, which a lookup does not."""

    update: ClassVar[str] = ""
    """`package.module:name` of what happens to its states after each optimizer step, or ""."""

    recomputable: ClassVar[bool] = True
    """Whether it may be run again in the backward pass: a function of its inputs and weights alone."""

    shares_storage: ClassVar[bool] = False
    """Whether all its outputs lie in one storage."""

    gradients: ClassVar[Literal["own", "joint", "passed"]] = "own"
    """Where gradients of its inputs lie: each alone, all in one storage, or where that of its output lies."""

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the types of the outputs; ValueError where the inputs do not fit (see `expect`)."""
        raise NotImplementedError

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of the weights it is called with, in order."""
        return ()

    def arguments(self) -> dict[str, Any]:
        """Return its functions' constant keyword arguments; an `LoopIndex` becomes an index at run time."""
        return {}

    def update_arguments(self) -> dict[str, Any]:
        """Return the constant keyword arguments of `update`, which is called with the untrained weights."""
        return {}

    def flops(self, at: CostContext) -> float:
        """Return the FLOPs of its matrix products, forward, per token and execution."""
        return 0.0

    def backward_flops(self, at: CostContext) -> float:
        """Return the same for the backward pass: two products for each product forward."""
        return 2 * self.flops(at)

    def saved(self, at: CostContext) -> SavedTensors:
        """Return what is kept for the backward pass."""
        return SavedTensors()

    def traffic(self, at: CostContext, given: float, made: float) -> float:
        """Return the bytes per token that it reads and writes forward, `given` and `made` by its values.

        Weights come on top, once per execution.
        """
        return given + made

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Return the precision it works in, fp32 at least; of a value in another it makes a copy."""
        return "any"

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Return what it needs while it runs."""
        return WorkspaceBytes(flow.made + self.saved(at).extra + flow.copied, flow.given, flow.given)

    def sequence_cache(self) -> int:
        """Return the elements per token that generation keeps for later tokens."""
        return 0

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Return the operation that does the work of the producer of one of its inputs as well, or None.

        It reads the operation's inputs, the one at `position` replaced by the producer's first and those that
        are other outputs of the producer left out, then the producer's other inputs; its weights are the
        operation's, then the producer's.

        Args:
            position: of the input that is the producer's first output.
            shared: others read what the producer makes. Then it returns the producer's outputs after its own,
                or its own alone: the producer stays for the others, and is run twice.
        """
        return None

    def passes(self, output: int) -> int | None:
        """Return the position of the input that stands for an output at steps that skip the operation.

        None means that no operation may read this output at such a step.
        """
        return None

    def cast_output(self) -> Operation:
        """Return the operation for a place where one product alone reads its first output.

        It may then return that in the precision of products, which the product would have cast it to.
        """
        return self

    def describe(self) -> str:
        """Return the operation's name for plans and tables."""
        return type(self).__name__


def expect(operation: Operation, got: Sequence[TensorType], *expected: Shape | TensorType) -> None:
    """Raise ValueError unless the inputs are as expected; a shape stands for a float value of tokens."""
    wanted = [each if isinstance(each, TensorType) else TensorType(each) for each in expected]
    if len(got) != len(wanted) or not all(map(TensorType.fits, got, wanted)):
        told = ", ".join(each.needs() for each in wanted)
        given = ", ".join(map(str, got))
        raise ValueError(f"{operation.describe()}: expected inputs ({told}), got ({given})")
