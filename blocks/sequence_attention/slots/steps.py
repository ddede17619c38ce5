"""Attention over the tokens of all steps so far. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest
from blocks.ir.operation import expect
from blocks.ir.tensor_type import ORDER, TensorType
from blocks.kernels.slots import slots_of
from blocks.sequence_attention.operations import MASK
from blocks.sequence_attention.slots.attend import SlotAttend


@dataclass(frozen=True)
class StepsAttend(SlotAttend):
    """Causal attention over the tokens of this step and all earlier steps (arXiv 2310.10845).

    (q, mask, token, slots) -> y.
    """

    span: Literal["inclusive", "exclusive"] = "inclusive"

    keeps_every_step = "sees earlier tokens at all their steps"
    decoding = "blocks.sequence_attention.decoding:attend_all_steps"
    kernels = (
        Kernel(
            "attend_steps",
            "blocks.sequence_attention.slots.steps_reference:attend_steps",
            "plain PyTorch: keys of all steps are laid side by side",
            by_autograd="blocks.sequence_attention.by_autograd:attend_steps",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        q = (self.heads, self.head_dim)
        expect(self, inputs, q, MASK, ORDER, slots_of(inputs[-1], self.kv_heads, self.head_dim))
        return (inputs[0],)

    def flops(self, at: CostContext) -> float:
        """Two dot products of head_dim per head, pair of tokens and step read."""
        return self.tokens().flops(at) * self.reads.mean(at.trips)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save queries and the fp32 weights of all tokens of all steps read."""
        return SavedTensors(inputs=(0,), extra=self._weights(at))

    def _weights(self, at: CostContext) -> float:
        return 4 * self.heads * at.context * self.reads.mean(at.trips)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The larger of two tensors of scores, and of scores with fp32 copies of queries and slots read."""
        query, weights = 4 * self.heads * self.head_dim, self._weights(at)
        slots = 4 * self.kv_heads * self.head_dim * self.reads.mean(at.trips)
        copies = (2 if at.widened else 1) * slots
        forward = largest(2 * weights, weights + copies, weights + slots + query, weights + 2 * query)
        backward = largest(2 * weights + query, weights + copies, weights + 2 * query + slots)
        return WorkspaceBytes(forward, backward, backward)
