"""One softmax over the tokens of a step and the token's own earlier steps. Torch-free."""

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

_REFERENCE = "blocks.sequence_attention.slots.joint_reference"


@dataclass(frozen=True)
class JointAttend(SlotAttend):
    """softmax over [tokens up to each token ; its own earlier steps] (MoDA, arXiv 2603.15619).

    (q, k, v, mask, token, slots) -> y. Both share the queries and are normalized together.
    """

    span: Literal["inclusive", "exclusive"] = "exclusive"

    decoding = "blocks.sequence_attention.decoding:attend_with_slots"
    kernels = (
        Kernel(
            "attend_joint",
            f"{_REFERENCE}:attend_joint",
            "plain PyTorch: torch's fused attention knows no second set of keys for each token",
            by_autograd="blocks.sequence_attention.by_autograd:attend_joint",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        q, kv = (self.heads, self.head_dim), (self.kv_heads, self.head_dim)
        expect(self, inputs, q, kv, kv, MASK, ORDER, slots_of(inputs[-1], *kv))
        return (TensorType(q, inputs[2].element),)

    def flops(self, at: CostContext) -> float:
        """Two dot products of head_dim per head and pair of tokens or slot read."""
        return self.tokens().flops(at) + 4 * self.heads * self.head_dim * self.reads.mean(at.trips)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save queries, keys, values and the fp32 weights of all tokens and slots."""
        return SavedTensors(inputs=(0, 1, 2), extra=self._weights(at))

    def _weights(self, at: CostContext) -> float:
        return 4 * self.heads * (at.context + self.reads.mean(at.trips))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Scores twice, and fp32 copies of the inputs by heads and of the slots by tokens."""
        query, slot = 4 * self.heads * self.head_dim, 4 * self.kv_heads * self.head_dim
        reads, weights = self.reads.mean(at.trips), self._weights(at)
        own, narrow = 4 * self.heads * reads, at.compute_bytes * self.kv_heads * self.head_dim
        # in fp32 a read is a view
        wide, asked = (slot * reads, query) if at.widened else (0, 0)
        forward = largest(
            2 * weights + own, weights + query + largest(slot, query), weights + own + wide + 2 * query
        )
        backward = largest(
            2 * weights + own + query,
            weights + query + 2 * slot,
            weights + narrow + 2 * query + largest(slot, asked),
            weights + query + wide + asked,
            own + query + 2 * narrow + slot * reads + asked,
        )
        return WorkspaceBytes(forward, backward, backward)
