"""Operations of the model rather than of a block or an option: embedding and positions. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, SavesNothing, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import IDS, Shape, TensorType

_REFERENCE = "composer.graph.lowering.reference"


@dataclass(frozen=True)
class Embed(Operation):
    """Look up the token's row and scale it by `scale`, by default sqrt(width): (tokens) -> x."""

    vocab: int
    width: int
    scale: float | None = None

    reads_weights = False
    decoding = LOCAL
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

    def arguments(self) -> dict[str, Any]:
        """Return the scale, if it is not sqrt(width)."""
        return {} if self.scale is None else {"scale": self.scale}

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Read the rows that are looked up, write them scaled."""
        return 2 * written

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the token ids, int64."""
        return SavedTensors(inputs=(0,))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The rows stand beside what they are scaled to, either way; unscaled they are what is made."""
        if self.scale == 1:
            return WorkspaceBytes(flow.outputs, 0, 0)
        return WorkspaceBytes(2 * flow.outputs, flow.outputs, 0)


@dataclass(frozen=True)
class AddPositions(SavesNothing, Operation):
    """Add to each token the vector of its position: (x) -> x."""

    context: int
    width: int

    reads_weights = False
    gradients = "passed"
    decoding = f"{_REFERENCE}:add_next_positions"
    kernels = (Kernel("add_positions", f"{_REFERENCE}:add_positions", "one row for each position"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the input's type."""
        expect(self, inputs, (self.width,))
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [context, width]."""
        return ((self.context, self.width),)


@dataclass(frozen=True)
class AddDocumentPositions(AddPositions):
    """Add to each token the vector of its position in its document: (x, tokens) -> x.

    Attributes:
        start: the token that begins a document.
    """

    start: int

    decoding = f"{_REFERENCE}:add_next_document_positions"
    kernels = (
        Kernel("add_document_positions", f"{_REFERENCE}:add_document_positions", "positions of each row"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the first input's type."""
        expect(self, inputs, (self.width,), IDS)
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        """Return the token."""
        return {"start": self.start}

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the position of each token."""
        return SavedTensors(extra=8)
