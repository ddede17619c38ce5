"""Operations of the model rather than of a block or an option: the embedding. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import IDS, Shape, TensorType

_REFERENCE = "composer.graph.lowering.reference"


@dataclass(frozen=True)
class Embed(Operation):
    """Look up the token's row and scale it to a root mean square of 1: (tokens) -> x."""

    vocab: int
    width: int

    reads_weights = False
    kernels = (Kernel("embed", f"{_REFERENCE}:embed", "a lookup; its gradient is no product"),)
    # what it makes is carried into the first stage, and it keeps nothing but the tokens
    recomputable = False

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the width."""
        expect(self, inputs, IDS)
        return (TensorType((self.width,), "stream"),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [vocab, width]."""
        return ((self.vocab, self.width),)

    def traffic(self, at: CostContext, given: float, made: float) -> float:
        """Read the rows that are looked up, write them scaled."""
        return 2 * made

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the token ids, int64."""
        return SavedTensors(inputs=(0,))

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The rows stand beside what they are scaled to, either way."""
        return WorkspaceBytes(2 * flow.made, flow.made, 0)
