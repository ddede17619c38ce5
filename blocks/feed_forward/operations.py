"""The activations of the feed-forward layer. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blocks.ir.costs import CostContext, SavedTensors
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import TensorType

_REFERENCE = "blocks.feed_forward.reference"


@dataclass(frozen=True)
class SwiGLU(Operation):
    """silu(gate) * up: (gate, up) -> y."""

    hidden: int

    kernels = (Kernel("swiglu", f"{_REFERENCE}:swiglu", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the hidden width."""
        expect(self, inputs, (self.hidden,), (self.hidden,))
        return (TensorType((self.hidden,)),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep both inputs and silu(gate)."""
        return SavedTensors(inputs=(0, 1), extra=at.compute_bytes * self.hidden)


@dataclass(frozen=True)
class Gelu(Operation):
    """The exact GELU (arXiv 1606.08415): (x) -> y."""

    hidden: int

    kernels = (Kernel("gelu", f"{_REFERENCE}:gelu", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the hidden width."""
        expect(self, inputs, (self.hidden,))
        return (TensorType((self.hidden,)),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the input."""
        return SavedTensors(inputs=(0,))
