"""The rotary embedding of some of the tokens of a sequence. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.fused_operations import positions


@dataclass(frozen=True)
class RotateAt(Operation):
    """Rotary position embedding of some of the tokens: (x, table, their places in the batch) -> x."""

    shape: Shape
    rotated: int

    decoding = LOCAL
    kernels = (
        Kernel(
            "rotate_at",
            "blocks.primitives.reference:rotate_at",
            "pairs turned by the rows of their tokens, whose number varies",
            traceable=False,
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the input's shape."""
        expect(self, inputs, self.shape, positions(self.rotated), TensorType((), "int"))
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        """Return the number of elements of each head that are rotated."""
        return {"rotated": self.rotated}

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the rows of the table."""
        return SavedTensors(extra=4 * self.rotated)

    def scratch(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The part that is turned is widened, turned in fp32 and joined with the rest."""
        elements = prod(self.shape[:-1]) * self.rotated
        turned, wide = at.compute_bytes * elements, 2 * at.widened * elements
        rows = 4 * self.rotated
        forward = rows + largest(wide + (turned if wide else 0), turned + flow.made)
        backward = largest(wide, turned + flow.given)
        return WorkspaceBytes(forward, backward, backward)
