"""The operation of the expected cross-entropy over exit steps. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import IDS, SCALAR, Shape, TensorType
from blocks.wiring.loss.cross_entropy.steps import StepsCrossEntropy


@dataclass(frozen=True)
class ExitCrossEntropy(Operation):
    """The head and the gate at each step, and the expected loss minus the weighted entropy.

    (normed states, targets) -> loss, loss of the last step, entropy.
    """

    width: int
    vocab: int
    steps: int
    tokens: int
    entropy: float

    kernels = (
        Kernel(
            "exit_cross_entropy",
            "blocks.wiring.loss.cross_entropy.exit_reference:exit_cross_entropy",
            "reference: head and log-softmax in fp32, step by step; probabilities as logarithms",
            traceable=False,
        ),
    )
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, TensorType((self.steps, self.width), kind="steps"), IDS)
        return (SCALAR, SCALAR, SCALAR)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return the head [vocab, width], the gate and its bias."""
        return ((self.vocab, self.width), (1, self.width), (1,))

    def arguments(self) -> dict[str, Any]:
        return {"entropy": self.entropy}

    def flops(self, at: CostContext) -> float:
        """The head at each step, the gate at each step but the last."""
        return 2 * self.width * (self.steps * self.vocab + self.steps - 1)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the tensors of each step's loss, and each step's gate logit and probabilities."""
        saved = self._heads.saved(at)
        return saved._replace(extra=saved.extra + self._numbers)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Autocast casts the inputs of products."""
        return "compute"

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Write and read the logits of each step."""
        return self._heads.traffic(at, read, written)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the peak is at the last head or the probabilities; backward, gates run before heads.

        The gates' gradients of states are allocated while heads run.
        """
        workspace, losses = self._heads.workspace(at, flow), 4 * self.steps
        probabilities = self._heads.saved(at).extra + flow.casts + self._numbers + 3 * losses
        gates = at.compute_bytes * (self.steps - 1) * self.width + losses - self._numbers
        return WorkspaceBytes(
            largest(workspace.forward + losses, probabilities),
            workspace.backward + gates,
            workspace.weights + gates,
        )

    @property
    def _heads(self) -> StepsCrossEntropy:
        return StepsCrossEntropy(self.width, self.vocab, self.steps, self.tokens, "uniform")

    @property
    def _numbers(self) -> int:
        return 16 * (self.steps - 1) + 12 * self.steps + 1
