"""The operations of expert-choice routing of tokens through steps. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.selected_tokens import ScattersTokens, SelectsTokens
from blocks.ir.tensor_type import IDS, SCALAR, TRAINING, Shape, TensorType

_REFERENCE = "blocks.wiring.route.by.reference"
_FLAGS = TensorType((), "bool")
PLACES = TensorType((), "int")
"""The type of indices of chosen tokens in the flattened batch."""


@dataclass(frozen=True)
class AllTokens(SavesNothing, Operation):
    """Flags of all tokens, the candidates of the first step: (tokens) -> flags."""

    decoding = LOCAL
    kernels = (Kernel("all_tokens", f"{_REFERENCE}:all_tokens", "a flag for each token"),)
    gradients = "none"

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, IDS)
        return (_FLAGS,)


@dataclass(frozen=True)
class ChooseTokens(SelectsTokens):
    """Choose tokens for a step: (x, previous flags, training) -> places, gates, flags, loss."""

    width: int
    steps: int
    scale: float

    some: ClassVar[tuple[int, ...]] = (0, 1)
    decoding = f"{_REFERENCE}:choose_next"
    kernels = (
        Kernel(
            "choose_tokens", f"{_REFERENCE}:choose_tokens", "the highest logits, in fp32", traceable=False
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the places and gates of chosen tokens, the flags of all tokens, and the router's loss."""
        expect(self, inputs, (self.width,), _FLAGS, TRAINING)
        return (PLACES, TensorType((), "fp32"), _FLAGS, SCALAR)

    def weight_shapes(self) -> tuple[Shape, ...]:
        return ((self.steps, self.width),)

    def arguments(self) -> dict[str, Any]:
        return {"keep": self.keep, "index": self.index, "scale": self.scale}

    def flops(self, at: CostContext) -> float:
        """One logit per token."""
        return 2 * self.width

    def saved(self, at: CostContext) -> SavedTensors:
        """Save x, the previous flags, logits, the targets of the loss, places and sigmoids."""
        once = 4 * self.width if at.weight_bytes < 4 else 0
        return SavedTensors((0, 1), (0,), 4 + 4 + 4 * self.share(at.context), once)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Logits are computed in fp32."""
        return "fp32"

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the outputs and a few numbers per token; backward, the gradients of logits and x."""
        numbers = 4 * 4
        return WorkspaceBytes(
            flow.outputs + flow.casts + 8 + numbers, flow.grad_inputs + numbers, flow.grad_inputs
        )


@dataclass(frozen=True)
class PickTokens(Operation):
    """Gather the chosen tokens: (x, places) -> x."""

    width: int

    decoding = LOCAL
    kernels = (Kernel("pick_tokens", f"{_REFERENCE}:pick_tokens", "rows side by side"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), PLACES)
        return (inputs[0],)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the places."""
        return SavedTensors((1,))


@dataclass(frozen=True)
class AddToTokens(ScattersTokens):
    """Add the step's output times the gates to the chosen tokens: (x, places, gates, y) -> x."""

    width: int

    decoding = LOCAL
    kernels = (Kernel("put_back", f"{_REFERENCE}:put_back", "rows added where they were taken from"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), PLACES, (), (self.width,))
        return (inputs[0],)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save places, gates and the step's output."""
        return SavedTensors((1, 2, 3))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The weighted rows in fp32 and in the dtype of x; backward, their gradients."""
        weighted = 4 * self.width
        narrow = at.stream_bytes * self.width if at.stream_bytes < 4 else 0
        forward = flow.outputs + weighted + narrow
        backward = 3 * weighted + narrow
        return WorkspaceBytes(forward, backward, backward)
