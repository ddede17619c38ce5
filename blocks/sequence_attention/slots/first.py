"""Attention to the keys and values of the first step of a stage. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest
from blocks.ir.operation import ORIGIN, LoopIndex, expect
from blocks.ir.tensor_type import ORDER, TensorType
from blocks.kernels.slots import SlotRead, WriteSlot, slots_of

_DECODING = "blocks.sequence_attention.decoding"


@dataclass(frozen=True)
class KeepFirst(WriteSlot):
    """Write the keys and values that all steps read to the only slot: (k, v, token, slots) -> token."""

    decoding = ""
    decoding_of_some = f"{_DECODING}:keep_first"

    def sequence_cache(self, at: CostContext) -> int:
        """Keys and values, which later tokens read."""
        return 2 * self.kv_heads * self.head_dim


@dataclass(frozen=True)
class AttendFirst(SlotRead):
    """Causal attention of selected tokens to the first step's keys and values of all tokens.

    (q, places, token, slots) -> y: recursive key-value sharing (Mixture-of-Recursions, arXiv 2507.10524).
    """

    heads: int
    kv_heads: int
    head_dim: int
    span: Literal["inclusive", "exclusive"] = "inclusive"
    reads: LoopIndex = ORIGIN

    decoding = ""
    decoding_of_some = f"{_DECODING}:attend_first"
    kernels = (
        Kernel(
            "attend_first",
            "blocks.sequence_attention.slots.first_reference:attend_first",
            "plain PyTorch: queries are masked by where their tokens are",
            by_autograd="blocks.sequence_attention.by_autograd:attend_first",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        q, places = (self.heads, self.head_dim), TensorType((), "int")
        expect(self, inputs, q, places, ORDER, slots_of(inputs[-1], self.kv_heads, self.head_dim))
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        return {}

    def flops(self, at: CostContext) -> float:
        """Two dot products of head_dim per head and pair; tokens see half of the sequence on average."""
        seen = at.sequence or at.context
        return 4 * self.heads * self.head_dim * (seen if at.full_mask else (seen + 1) / 2)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save queries and the fp32 weights of all tokens."""
        return SavedTensors(inputs=(0,), extra=self._weights(at))

    def _weights(self, at: CostContext) -> float:
        return 4 * self.heads * (at.sequence or at.context)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The larger of two tensors of scores, and of scores with fp32 copies of queries and of the slot."""
        query, weights = 4 * self.heads * self.head_dim, self._weights(at)
        slot = 4 * self.kv_heads * self.head_dim * (at.sequence or at.context) / at.context
        copies = (2 if at.widened else 1) * slot
        forward = largest(2 * weights, weights + copies, weights + slot + query, weights + 2 * query)
        backward = largest(2 * weights + query, weights + copies, weights + 2 * query + slot)
        return WorkspaceBytes(forward, backward, backward)

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Inputs, outputs and the slot."""
        slot = 2 * self.kv_heads * self.head_dim * (at.sequence or at.context) / at.context
        return read + written + at.compute_bytes * slot
