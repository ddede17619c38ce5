"""The operations of adaptive computation time. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import SCALAR, TensorType

_REFERENCE = "blocks.wiring.halt.act.reference"
_NUMBER = TensorType((1,), "fp32")


@dataclass(frozen=True)
class HaltStart(SavesNothing, Operation):
    """The initial halting probability and ponder cost: (x) -> 0, 0."""

    width: int

    gradients = "none"
    decoding = LOCAL
    kernels = (Kernel("halt_start", f"{_REFERENCE}:halt_start", "filled"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,))
        return (_NUMBER, _NUMBER)


@dataclass(frozen=True)
class HaltUpdate(Operation):
    """One step of ACT: (logit, new, state, probability, ponder) -> state, probability, ponder."""

    width: int
    threshold: float

    decoding = LOCAL
    kernels = (
        Kernel(
            "halt_update",
            f"{_REFERENCE}:halt_update",
            "elementwise",
            traceable=False,
            by_autograd=f"{_REFERENCE}:halt_update_by_autograd",
        ),
    )
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (1,), (self.width,), (self.width,), _NUMBER, _NUMBER)
        return (inputs[2], _NUMBER, _NUMBER)

    def arguments(self) -> dict[str, Any]:
        return {"threshold": self.threshold}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save both states, the fp32 weight of the step, and flags of the running and halting tokens."""
        return SavedTensors(inputs=(1, 2), extra=4 + 1)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, a few numbers per token; backward, the products that are summed over the width."""
        numbers = 4 * 4
        return WorkspaceBytes(
            flow.outputs + 5 + numbers, flow.grad_inputs + numbers, flow.grad_inputs + numbers
        )


@dataclass(frozen=True)
class TokenMean(SavesNothing, Operation):
    """The mean over all tokens: (x) -> scalar."""

    decoding = LOCAL
    kernels = (Kernel("token_mean", f"{_REFERENCE}:token_mean", "one reduction"),)
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, _NUMBER)
        return (SCALAR,)
