"""Operations as costs count them, where they are not run as they stand in the graph. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation
from blocks.ir.tensor_type import Shape, TensorType


@dataclass(frozen=True)
class Counted(Operation):
    """An operation with its own costs, which a subclass changes."""

    inner: Operation

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Types are inferred before costs are asked."""
        raise NotImplementedError

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return those of the operation."""
        return self.inner.weight_shapes()

    def arguments(self) -> dict[str, Any]:
        """Return those of the operation."""
        return self.inner.arguments()

    def passes(self, output: int) -> int | None:
        """Return that of the operation."""
        return self.inner.passes(output)

    def describe(self) -> str:
        """Return the operation's name."""
        return self.inner.describe()

    @property
    def kernels(self) -> tuple[Kernel, ...]:  # type: ignore[override]
        """Those of the operation."""
        return self.inner.kernels

    @property
    def reads_weights(self) -> bool:  # type: ignore[override]
        """That of the operation."""
        return self.inner.reads_weights

    @property
    def shares_storage(self) -> bool:  # type: ignore[override]
        """That of the operation."""
        return self.inner.shares_storage

    @property
    def gradients(self) -> Literal["own", "joint", "passed", "none"]:  # type: ignore[override]
        """That of the operation."""
        return self.inner.gradients

    @property
    def constants(self) -> tuple[int, ...]:  # type: ignore[override]
        """Those of the operation."""
        return self.inner.constants

    def flops(self, at: CostContext) -> float:
        """Return those of the operation."""
        return self.inner.flops(at)

    def backward_flops(self, at: CostContext) -> float:
        """Return those of the operation."""
        return self.inner.backward_flops(at)

    def saved(self, at: CostContext) -> SavedTensors | None:
        """Return that of the operation."""
        return self.inner.saved(at)

    def traffic(self, at: CostContext, given: float, made: float) -> float:
        """Return that of the operation."""
        return self.inner.traffic(at, given, made)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Return that of the operation."""
        return self.inner.works_in(at)

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Return that of the operation."""
        return self.inner.scratch(at, flow)

    def sequence_cache(self, at: CostContext) -> int:
        """Return that of the operation."""
        return self.inner.sequence_cache(at)


@dataclass(frozen=True)
class OfSegments(Counted):
    """An operation one of whose inputs is collected by several loops, one after the other.

    Attributes:
        counts: for each of its inputs, how many values stand for it.
    """

    counts: tuple[int, ...]

    @property
    def constants(self) -> tuple[int, ...]:  # type: ignore[override]
        """Those of the operation, at their places here."""
        return self._places(self.inner.constants)

    def saved(self, at: CostContext) -> SavedTensors | None:
        """Return the same values, at their places here."""
        saved = self.inner.saved(at)
        if saved is None:
            return None
        return saved._replace(inputs=self._places(saved.inputs))

    def _places(self, inputs: Sequence[int]) -> tuple[int, ...]:
        starts = [sum(self.counts[:number]) for number in range(len(self.counts))]
        return tuple(starts[number] + each for number in inputs for each in range(self.counts[number]))


def plain(operation: Operation) -> Operation:
    """Return the operation itself, however it is counted."""
    while isinstance(operation, Counted):
        operation = operation.inner
    return operation
