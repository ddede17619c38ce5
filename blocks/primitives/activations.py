"""Activations used by several blocks and options. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from blocks.ir.costs import CostContext, SavedTensors
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType


@dataclass(frozen=True)
class Gelu(Operation):
    """The exact GELU (arXiv 1606.08415): (x) -> y."""

    hidden: int

    decoding = LOCAL
    kernels = (Kernel("gelu", "blocks.primitives.reference:gelu", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.hidden,))
        return (TensorType((self.hidden,)),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the input."""
        return SavedTensors(inputs=(0,))


@dataclass(frozen=True)
class SwiGLU(Operation):
    """silu(gate) * up (arXiv 2002.05202): (gate, up) -> y."""

    shape: Shape

    decoding = LOCAL
    kernels = (Kernel("swiglu", "blocks.primitives.reference:swiglu", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape, self.shape)
        return (TensorType(self.shape),)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save both inputs and the activated gate."""
        return SavedTensors(inputs=(0, 1), extra=at.compute_bytes * prod(self.shape))
