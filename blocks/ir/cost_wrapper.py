"""Wrappers that change the costs of an operation, for cost estimates only. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation
from blocks.ir.tensor_type import Shape, TensorType


@dataclass(frozen=True)
class CostWrapper(Operation):
    """Delegates to `inner`; a subclass overrides some of its costs."""

    inner: Operation

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        raise NotImplementedError

    def weight_shapes(self) -> tuple[Shape, ...]:
        return self.inner.weight_shapes()

    def arguments(self) -> dict[str, Any]:
        return self.inner.arguments()

    def passthrough(self, output: int) -> int | None:
        """Return that of the operation."""
        return self.inner.passthrough(output)

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

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Return that of the operation."""
        return self.inner.traffic(at, read, written)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Return that of the operation."""
        return self.inner.works_in(at)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Return that of the operation."""
        return self.inner.workspace(at, flow)

    def sequence_cache(self, at: CostContext) -> int:
        """Return that of the operation."""
        return self.inner.sequence_cache(at)


@dataclass(frozen=True)
class OfSegments(CostWrapper):
    """An operation with an input that several segments of a loop collect, each as a value of its own.

    Attributes:
        counts: for each input of the operation, the number of values that replace it.
    """

    counts: tuple[int, ...]

    @property
    def constants(self) -> tuple[int, ...]:  # type: ignore[override]
        """The operation's, as positions among the replaced inputs."""
        return self._places(self.inner.constants)

    def saved(self, at: CostContext) -> SavedTensors | None:
        """Return the operation's, as positions among the replaced inputs."""
        saved = self.inner.saved(at)
        if saved is None:
            return None
        return saved._replace(inputs=self._places(saved.inputs))

    def _places(self, inputs: Sequence[int]) -> tuple[int, ...]:
        starts = [sum(self.counts[:number]) for number in range(len(self.counts))]
        return tuple(starts[number] + each for number in inputs for each in range(self.counts[number]))


def unwrap(operation: Operation) -> Operation:
    """Return the operation without wrappers."""
    while isinstance(operation, CostWrapper):
        operation = operation.inner
    return operation
