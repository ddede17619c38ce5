"""The activation that options use as well as the feed-forward layer. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blocks.ir.costs import CostContext, SavedTensors
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import TensorType


@dataclass(frozen=True)
class Gelu(Operation):
    """The exact GELU (arXiv 1606.08415): (x) -> y."""

    hidden: int

    decoding = LOCAL
    kernels = (Kernel("gelu", "blocks.primitives.reference:gelu", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the hidden width."""
        expect(self, inputs, (self.hidden,))
        return (TensorType((self.hidden,)),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the input."""
        return SavedTensors(inputs=(0,))
