"""The operation of gated delta rule attention. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blocks.ir.costs import CostContext, SavedTensors
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType

CHUNK = 64
"""Tokens that are mixed at a time."""
_REFERENCE = "blocks.gated_delta.reference"


@dataclass(frozen=True)
class GatedDelta(Operation):
    """What a state of fixed size, written by the gated delta rule, gives: (q, k, v, write, forget) -> y."""

    heads: int
    key_dim: int
    value_dim: int

    decoding = "blocks.gated_delta.decoding:mix_next"
    kernels = (
        Kernel("delta_chunked", f"{_REFERENCE}:mix", "64 tokens at a time, made again in the backward pass"),
        Kernel("delta_plain", f"{_REFERENCE}:mix_plain", "reference: one token after another"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return one vector for each head."""
        keys, values, gate = (self.heads, self.key_dim), (self.heads, self.value_dim), (self.heads,)
        expect(self, inputs, keys, keys, values, gate, gate)
        return (TensorType(values),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return the logarithm of each head's rate of forgetting, and the shift of its gate."""
        return (self.heads,), (self.heads,)

    def arguments(self) -> dict[str, Any]:
        """Return nothing: sizes are those of the tensors."""
        return {}

    def flops(self, at: CostContext) -> float:
        """Three products of keys by values per token, and three with the tokens of its chunk."""
        pairs = sum(size**2 for size in self._chunks(at)) / at.context
        state = 6 * self.key_dim * self.value_dim
        return self.heads * (pairs * (4 * self.key_dim + 2 * self.value_dim) + state)

    def backward_flops(self, at: CostContext) -> float:
        """All products again, then two for each but those of the empty first and the unread last state.

        The triangular system adds one product in each chunk.
        """
        sizes = self._chunks(at)
        unneeded = 4 * self.heads * self.key_dim * self.value_dim * (sizes[0] + sizes[-1]) / at.context
        system = 2 * self.heads * self.value_dim * sum(size**2 for size in sizes) / at.context
        return 3 * self.flops(at) - unneeded + system

    def _chunks(self, at: CostContext) -> list[int]:
        whole, rest = divmod(at.context, CHUNK)
        return [CHUNK] * whole + [rest] * (rest > 0)

    def saved(self, at: CostContext) -> SavedTensors:
        """Keep the inputs alone."""
        return SavedTensors(inputs=(0, 1, 2, 3, 4))

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Sums over all tokens are taken in fp32."""
        return "fp32"

    def sequence_cache(self, at: CostContext) -> int:
        """One state, shared out over the tokens of the context."""
        return -(-self.heads * self.key_dim * self.value_dim // at.context)
