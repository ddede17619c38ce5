"""Batches whose sequences run different numbers of steps; a sequence skips the other steps.

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
"""Prefix of the model input with the steps that each sequence runs, followed by the index of the loop."""


def keep_rows(build: Builder, new: Value, old: Value) -> Value:
    """Return the state after a step: `new` in sequences that run it, `old` in the others."""
    if new == old:
        return new
    index = build.trip()
    ((loop, _),) = index.strides
    runs = build.model_input(f"{RUNS}{loop}", TensorType((build.trips(),), "bool", "row"))
    return build.op("keep", KeepRows(index, build.trips()), new, old, runs)


@dataclass(frozen=True)
class KeepRows(Operation):
    """Select `new` in sequences that run this step, `old` in the others: (new, old, flags) -> y."""

    index: LoopIndex
    steps: int = field(compare=False)

    passes_on = 1
    kernels = (Kernel("keep_rows", f"{__name__}:keep", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        new, old, _ = inputs
        expect(self, inputs, new.shape, new.shape, TensorType((self.steps,), "bool", "row"))
        return (old,)

    def arguments(self) -> dict[str, Any]:
        return {"step": self.index}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the flags of the sequences that run."""
        return SavedTensors(inputs=(2,))


def keep(new: Tensor, old: Tensor, runs: Tensor, step: int) -> Tensor:
    """Return `new` in sequences that run a step and `old` in the others.

    new, old: [batch, sequence, ...]; runs: [batch, steps], bool.
    """
    rows = runs[:, step].view(-1, *(1,) * (new.ndim - 1))
    return new.where(rows, old)
