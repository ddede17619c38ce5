"""The operations of token-choice routing. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation, expect
from blocks.ir.selected_tokens import ScattersTokens, SelectsTokens
from blocks.ir.tensor_type import SCALAR, Shape, TensorType
from blocks.wiring.route.by.operations import PLACES

_REFERENCE = "blocks.wiring.route.by.token_reference"
_NUMBERS = TensorType((), "int")
_GATES = TensorType((), "fp32")


@dataclass(frozen=True)
class ChooseSteps(Operation):
    """Choose the number of steps of each token: (x) -> numbers, gates, balance loss."""

    width: int
    steps: int
    scale: float

    decoding = LOCAL
    kernels = (
        Kernel("choose_steps", f"{_REFERENCE}:choose_steps", "the highest logit, in fp32", traceable=False),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the number and gate of each token, and the router's loss."""
        expect(self, inputs, (self.width,))
        return (_NUMBERS, _GATES, SCALAR)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.steps, self.width),)

    def arguments(self) -> dict[str, Any]:
        return {"scale": self.scale}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save x, the probabilities of all numbers and the chosen number."""
        once = 4 * self.width * self.steps if at.weight_bytes < 4 else 0
        return SavedTensors((0,), (), 4 * self.steps + 8, once)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Logits are computed in fp32."""
        return "fp32"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the logits, probabilities and outputs; backward, the gradients of logits and x."""
        logits = 4 * self.steps
        return WorkspaceBytes(
            flow.outputs + flow.casts + 2 * logits + 8,
            flow.grad_inputs + 2 * logits,
            flow.grad_inputs + logits,
        )


@dataclass(frozen=True)
class RunningTokens(SavesNothing, SelectsTokens):
    """The places of the tokens that run a step: (numbers) -> places."""

    decides = f"{_REFERENCE}:most_likely"
    decoding = f"{_REFERENCE}:next_running_tokens"
    gradients = "none"
    kernels = (
        Kernel(
            "running_tokens",
            f"{_REFERENCE}:running_tokens",
            "as many as the longest row has",
            traceable=False,
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, _NUMBERS)
        return (PLACES,)

    def arguments(self) -> dict[str, Any]:
        return {"index": self.index}

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, 24 bytes per token besides the output, for flags and sort order; no backward pass."""
        return WorkspaceBytes(flow.outputs + 3 * 8, 0, 0)


@dataclass(frozen=True)
class UpdateRunTokens(ScattersTokens):
    """Update the states of the tokens that ran a step: (x, start, places, numbers, gates, y) -> x.

    Tokens that run the next step get y, tokens that ran their last step get start plus y times their gate.
    """

    width: int
    index: LoopIndex

    decoding = LOCAL
    kernels = (
        Kernel("put_on", f"{_REFERENCE}:put_on", "rows put where they were taken from", traceable=False),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        state = (self.width,)
        expect(self, inputs, state, state, PLACES, _NUMBERS, _GATES, state)
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        return {"index": self.index}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save places, the step's output, its factors, those of all tokens, and two flags per token."""
        return SavedTensors((2, 5), (), 4 + 4 + 2)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The weighted rows in fp32 and in the dtype of x; backward, their gradients."""
        weighted = 4 * self.width
        narrow = at.stream_bytes * self.width if at.stream_bytes < 4 else 0
        return WorkspaceBytes(
            2 * flow.outputs + weighted + narrow, 3 * weighted + narrow, 3 * weighted + narrow
        )
