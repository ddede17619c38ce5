"""Sequence attention with capped scores, not fused: all pairs' weights are in memory. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest
from blocks.sequence_attention.operations import WindowAttend


@dataclass(frozen=True)
class CappedAttend(WindowAttend):
    """softmax(cap tanh(q k^T / (cap sqrt(head_dim)))) v under a mask (Gemma 2, arXiv 2408.00118).

    (q, k, v, mask) -> y. Without a window, `window` is at least the context.
    """

    cap: float = 0.0

    decoding = "blocks.sequence_attention.decoding:attend_window_capped"
    kernels = (
        Kernel(
            "attend_capped",
            "blocks.sequence_attention.capped_reference:attend_capped",
            "plain PyTorch: torch's fused attention caps no scores",
            traceable=False,
            by_autograd="blocks.sequence_attention.by_autograd:attend_capped",
        ),
    )

    def arguments(self) -> dict[str, Any]:
        return {"cap": self.cap}

    def decoding_arguments(self) -> dict[str, Any]:
        return {**super().decoding_arguments(), "cap": self.cap}

    def saved(self, at: CostContext) -> SavedTensors:
        """Save queries, keys and values, and the fp32 score and weight of every pair of tokens."""
        return SavedTensors(inputs=(0, 1, 2), extra=2 * self._square(at))

    def _square(self, at: CostContext) -> float:
        return 4 * self.heads * at.context

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Beside fp32 tensors of all pairs, one more or fp32 copies of inputs and outputs by heads."""
        query, slot = 4 * self.heads * self.head_dim, 4 * self.kv_heads * self.head_dim
        square, e = self._square(at), at.compute_bytes
        narrow = e * self.kv_heads * self.head_dim
        forward = largest(3 * square, 2 * square + query + largest(slot, query))
        backward = largest(
            2 * square + narrow,
            square + query + 2 * slot,
            square + narrow + 2 * query,
            square
            + narrow
            + e * self.heads * self.head_dim
            + query
            + largest(slot, query if at.widened else 0),
        )
        return WorkspaceBytes(forward, backward, backward)
