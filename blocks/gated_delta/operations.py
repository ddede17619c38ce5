"""The operation of gated delta rule attention. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest, smallest
from blocks.ir.operation import Operation, expect
from blocks.ir.tensor_type import Shape, TensorType

CHUNK = 64
"""The number of tokens in a chunk."""


@dataclass(frozen=True)
class GatedDelta(Operation):
    """The gated delta rule (arXiv 2412.06464): (q, k, v, write, forget) -> y."""

    heads: int
    key_dim: int
    value_dim: int

    decoding = "blocks.gated_delta.decoding:mix_next"
    keeps_every_step = "keeps a state that each token changes"
    kernels = (
        Kernel(
            "delta_chunked",
            "blocks.gated_delta.chunked:mix",
            f"{CHUNK} tokens at a time, made again in the backward pass",
            traceable=False,
        ),
        Kernel("delta_plain", "blocks.gated_delta.reference:mix_plain", "reference: one token after another"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        keys, values, gate = (self.heads, self.key_dim), (self.heads, self.value_dim), (self.heads,)
        expect(self, inputs, keys, keys, values, gate, gate)
        return (TensorType(values),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [heads] for the logarithm of the decay rate, and [heads] for the shift of its gate."""
        return (self.heads,), (self.heads,)

    def arguments(self) -> dict[str, Any]:
        return {}

    def flops(self, at: CostContext) -> float:
        """Three products of key_dim x value_dim per token, and three with the tokens of its chunk."""
        pairs, state = self._pairs(at), self.key_dim * self.value_dim
        return 2 * self.heads * (pairs * (2 * self.key_dim + self.value_dim) + 3 * state)

    def backward_flops(self, at: CostContext) -> float:
        """The products that recompute the states, and the gradients of all products."""
        pairs, state = self._pairs(at), self.key_dim * self.value_dim
        own = pairs * (5 * self.key_dim + 3 * self.value_dim) + 7 * state
        # states are computed from all chunks but the last
        after = at.context - self._last(at)
        again = (after * CHUNK * self.key_dim + 2 * after * state) / at.context
        return 2 * self.heads * (own + again)

    def _pairs(self, at: CostContext) -> float:
        """Return the size of a token's chunk, averaged over tokens."""
        last = self._last(at)
        return ((at.context - last) * CHUNK + last * last) / at.context

    def _last(self, at: CostContext) -> int:
        """Return the size of the last chunk."""
        return (at.context - 1) % CHUNK + 1

    def saved(self, at: CostContext) -> SavedTensors:
        """Save only the inputs."""
        return SavedTensors(inputs=(0, 1, 2, 3, 4))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, a state and the intermediates of one chunk; backward, also the state before each chunk."""
        chunk, chunks = smallest(CHUNK, at.context), -(-at.context // CHUNK)
        keys, values, state = chunk * self.key_dim, chunk * self.value_dim, self.key_dim * self.value_dim
        solved = keys + 2 * values + 3 * chunk * chunk + 6 * chunk
        read = largest(chunk * chunk + keys + 2 * values, keys + values + 2 * state)
        forward = solved + state + keys + chunk + read
        backward = solved + (chunks + 4) * state + 8 * keys + 4 * values + 4 * chunk * chunk + 5 * chunk
        share = 4 * self.heads / at.context
        of_inputs = flow.grad_inputs + share * backward
        return WorkspaceBytes(flow.outputs + share * forward, of_inputs, of_inputs, until_end=True)

    def sequence_cache(self, at: CostContext) -> int:
        """One fp32 state, averaged over the tokens of the context."""
        state = self.heads * self.key_dim * self.value_dim * 4 // at.compute_bytes
        return -(-state // at.context)
