"""Rows of a batch that run different numbers of steps: a row keeps its state at steps that are not its own.

Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blocks.base.builder import Builder
from blocks.ir.costs import CostContext, SavedTensors
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation, Value, expect
from blocks.ir.tensor_type import TensorType

if TYPE_CHECKING:
    from torch import Tensor

RUNS = "runs_"
"""What an input of the model with the steps that each row runs begins with; the index of the loop follows."""


def keep_rows(build: Builder, new: Value, old: Value) -> Value:
    """Return the state after a step: `new` in rows that run it, `old` in the others."""
    if new == old:
        return new
    index = build.trip()
    ((loop, _),) = index.strides
    runs = build.model_input(f"{RUNS}{loop}", TensorType((build.trips(),), "bool", "row"))
    return build.op("keep", KeepRows(index, build.trips()), new, old, runs)


@dataclass(frozen=True)
class KeepRows(Operation):
    """(new, old, which of all steps each row runs) -> new in rows that run this step, old in the others."""

    index: LoopIndex
    steps: int = field(compare=False)

    kernels = (Kernel("keep_rows", f"{__name__}:keep", "elementwise"),)

    def passthrough(self, output: int) -> int | None:
        """A skipped stage leaves the state as it is."""
        return 1

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        new, old, _ = inputs
        expect(self, inputs, new.shape, new.shape, TensorType((self.steps,), "bool", "row"))
        return (old,)

    def arguments(self) -> dict[str, Any]:
        return {"step": self.index}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save which rows run."""
        return SavedTensors(inputs=(2,))


def keep(new: Tensor, old: Tensor, runs: Tensor, step: int) -> Tensor:
    """Return `new` in rows that run a step and `old` in the others.

    new, old: [batch, sequence, ...]; runs: [batch, steps], bool.
    """
    rows = runs[:, step].view(-1, *(1,) * (new.ndim - 1))
    return new.where(rows, old)
