"""Operations, their weights and loop indices. Torch-free.

Operations are frozen dataclasses: passes rewrite a graph by replacing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple

from blocks.ir.costs import CostModel
from blocks.ir.decoding import Decoding
from blocks.ir.kernel import Implementation
from blocks.ir.steps import OneStep, StepCount
from blocks.ir.tensor_type import Shape, TensorType


class Value(NamedTuple):
    """One output of one node of a graph."""

    node: str
    output: int = 0


class Init(NamedTuple):
    """The initial values of a weight.

    Attributes:
        kind: `normal`: mean 0 and standard deviation `scale`; `constant`: `scale`; `eye`: [I, 0, ...], the
            identity in the first columns; `powers`: scale ** (1 / n), scale ** (2 / n), ..., scale for n
            elements; `one_hot`: `scale` at one index and `rest` elsewhere, at the next index for each
            further weight of the model with this init; `first`: `scale` in the first row, zero elsewhere.
        scale: see `kind`.
        rest: see `one_hot`.
    """

    kind: Literal["normal", "constant", "eye", "powers", "one_hot", "first"]
    scale: float = 1.0
    rest: float = 0.0


ZEROS = Init("constant", 0.0)


class Weight(NamedTuple):
    """A parameter, or with `trained=False` a buffer.

    Attributes:
        role: its name within the block, such as `query`; the last part of its full name.
        decay: whether weight decay applies (not to norms and biases).
        writes_residual: whether it projects into the residual stream, so that its scale shrinks with depth.
        active: the fraction of it that one token uses, as (numerator, denominator).
        saved: whether checkpoints contain it. A buffer that is not saved is a counter of the training pass;
            outside of training its operation gets None instead.
        block: the name of its block, set by the builder.
        grid: the number of matrices below each other and side by side in its last two dimensions, such as
            gate and up, for optimizers that treat each matrix separately.
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
    grid: tuple[int, int] = (1, 1)

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of one of its matrices (see `grid`); it has two dimensions or more."""
        return self.shape[-2] // self.grid[0], self.shape[-1] // self.grid[1]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class LoopIndex:
    """An affine function of the enclosing loops' indices: base + sum(stride * loop index) + sum(counts).

    `counts` are terms that grow only at some steps of a loop, for operations that run only there.
    """

    base: int = 0
    strides: tuple[tuple[str, int], ...] = ()
    counts: tuple[StepCount, ...] = ()

    def mean(self, trips: Mapping[str, int | OneStep]) -> float:
        """Return the exact mean over all executions, where each loop index runs over 0 .. trips - 1."""
        mean: float = self.base
        for loop, stride in self.strides:
            steps = trips[loop]
            mean = mean + stride * (steps.step if isinstance(steps, OneStep) else (steps - 1) / 2)
        for count in self.counts:
            steps = trips[count.loop]
            assert not isinstance(steps, OneStep), "costs of one step are asked of loops that skip nothing"
            mean = mean + count.mean(steps)
        return mean

    def __add__(self, offset: int) -> LoopIndex:
        return LoopIndex(self.base + offset, self.strides, self.counts)

    def plus(self, count: StepCount) -> LoopIndex:
        """Return the index with one more count; counts of the same steps are merged."""
        same = [each for each in self.counts if each._replace(stride=0) == count._replace(stride=0)]
        others = tuple(each for each in self.counts if each not in same)
        stride = sum(each.stride for each in (*same, count))
        added = (count._replace(stride=stride),) if stride else ()
        return LoopIndex(self.base, self.strides, (*others, *added))

    def from_step(self, loop: str, first: int, after: int, trips: int) -> LoopIndex:
        """Return the index for steps `first` to `after` - 1 of a loop, counted from 0.

        Raises:
            ValueError: it is not linear between these steps.
        """
        base = self.base + sum(stride * first for name, stride in self.strides if name == loop)
        strides, last = dict(self.strides), after - 1
        for count in self.counts:
            if count.loop == loop:
                start, grown = count.at(first, trips), count.at(last, trips) - count.at(first, trips)
                if grown not in (0, count.stride * (last - first)):
                    raise ValueError(f"{self} does not grow evenly from step {first} to {last}")
                base += start
                # one stride for each loop: costs take two for two loops
                strides[loop] = strides.get(loop, 0) + (count.stride if grown else 0)
        counts = tuple(count for count in self.counts if count.loop != loop)
        return LoopIndex(base, tuple(strides.items()), counts)

    def __str__(self) -> str:
        terms = [loop if stride == 1 else f"{stride}*{loop}" for loop, stride in self.strides]
        terms += map(str, self.counts)
        return " + ".join([*terms, str(self.base)] if self.base or not terms else terms)


ORIGIN = LoopIndex()
"""The initial index; a later pass numbers the slots and replaces it."""


class Operation(CostModel, Implementation, Decoding):
    """An operation of a graph: its types, costs, kernels, and how it decodes.

    A subclass is a frozen dataclass of its sizes. It defines `types` (`Meaning`) and `kernels`
    (`Implementation`). Costs (`CostModel`) have defaults. Without `decoding` (`Decoding`) models with the
    operation train but do not generate.
    """

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Return the operation fused with the producer of one of its inputs, or None if there is none.

        The fused operation reads this operation's inputs, with the one at `position` replaced by the
        producer's first input and without other outputs of the producer, then the producer's other inputs.
        Its weights are this operation's, then the producer's.

        Args:
            position: the position of the input that is the producer's first output.
            producer: the operation that computes that input.
            shared: whether other operations read the producer's outputs. The fused operation then returns
                the producer's outputs after its own, or only its own; in that case the producer stays and
                runs twice.
        """
        return None

    def fused_inputs(self, inputs: tuple[Value, ...]) -> tuple[Value, ...] | None:
        """Return which of the inputs of both operations the fused one reads; None if it needs others."""
        return inputs


def expect(operation: Operation, got: Sequence[TensorType], *expected: Shape | TensorType) -> None:
    """Check the types of the inputs.

    Args:
        operation: the operation, for the message.
        got: the types of its inputs.
        expected: the type of each, or for a float value of tokens its shape.

    Raises:
        ValueError: the number or the types of the inputs differ.
    """
    wanted = [each if isinstance(each, TensorType) else TensorType(each) for each in expected]
    if len(got) != len(wanted) or not all(map(TensorType.fits, got, wanted)):
        expected_text = ", ".join(each.needs() for each in wanted)
        got_text = ", ".join(map(str, got))
        raise ValueError(f"{operation.describe()}: expected inputs ({expected_text}), got ({got_text})")
