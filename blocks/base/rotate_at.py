"""Rotary embedding of selected tokens. Torch-free."""

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
    """Rotary position embedding of selected tokens: (x, table, indices in the flattened batch) -> x."""

    shape: Shape
    rotated: int

    decoding = LOCAL
    kernels = (
        Kernel(
            "rotate_at",
            "blocks.primitives.reference:rotate_at",
            "pairs rotated by the rows of their tokens, whose number varies",
            traceable=False,
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, positions(self.rotated), TensorType((), "int"))
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        return {"rotated": self.rotated}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the rows of the table."""
        return SavedTensors(extra=4 * self.rotated)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Copies of the rotated elements, in fp32 under autocast, until they are joined with the rest."""
        elements = prod(self.shape[:-1]) * self.rotated
        part, wide = at.compute_bytes * elements, 2 * at.widened * elements
        rows = 4 * self.rotated
        forward = rows + largest(wide + (part if wide else 0), part + flow.outputs)
        backward = largest(wide, part + flow.grad_inputs)
        return WorkspaceBytes(forward, backward, backward)
