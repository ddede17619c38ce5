"""What an operation is: its types, weights, costs and kernels. Torch-free.

Operations are values (frozen dataclasses): a pass rewrites a graph by replacing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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


@dataclass(frozen=True, slots=True)
class Init:
    """How a weight starts: `normal` (scale = standard deviation), `constant` (scale = value), or as follows.

    `eye` is [I, 0, ...]: the identity on the first columns, zero elsewhere. `powers` is scale ** (1 / n),
    scale ** (2 / n), ..., scale for n elements. `one_hot` is `scale` at one place of a vector and `rest`
    elsewhere; the weights of a model that start so have it at one place after another. `first` is `scale` in
    the first row and zero elsewhere.
    """

    kind: Literal["normal", "constant", "eye", "powers", "one_hot", "first"]
    scale: float = 1.0
    rest: float = 0.0


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
        grid: how many matrices stand below each other and side by side in its last two dimensions, such as
            gate and up, for optimizers that treat each matrix by itself.
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
        """Rows and columns of one of the matrices that it consists of; it has two dimensions or more."""
        return self.shape[-2] // self.grid[0], self.shape[-1] // self.grid[1]

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

    def mean(self, trips: Mapping[str, int | OneStep]) -> float:
        """Return the mean over all executions, exactly: each index runs over 0 .. trips - 1."""
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


class Operation(CostModel, Implementation, Decoding):
    """One step of a program: what it means, what it costs and how it runs, also token by token.

    A subclass is a frozen dataclass of its sizes. It has to say its `types` (`Meaning`) and its `kernels`
    (`Implementation`); costs (`CostModel`) have defaults, and models generate with it if it says how
    (`Decoding`).
    """

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


def expect(operation: Operation, got: Sequence[TensorType], *expected: Shape | TensorType) -> None:
    """Raise ValueError unless the inputs are as expected; a shape stands for a float value of tokens."""
    wanted = [each if isinstance(each, TensorType) else TensorType(each) for each in expected]
    if len(got) != len(wanted) or not all(map(TensorType.fits, got, wanted)):
        told = ", ".join(each.needs() for each in wanted)
        given = ", ".join(map(str, got))
        raise ValueError(f"{operation.describe()}: expected inputs ({told}), got ({given})")
