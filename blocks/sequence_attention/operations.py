"""The operations of sequence attention. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from blocks.core.gpu import off_gpu
from blocks.core.numbers import smallest
from blocks.core.operation import At, Kernel, Operation, Saved, Shape, Target, expect

_REFERENCE = "blocks.sequence_attention.reference"
MASK: Shape = (-2,)


def _no_window(operation: Attend, target: Target) -> str:
    return "it has no window" if operation.window else ""


def _unordered(operation: Attend, target: Target) -> str:
    return _no_window(operation, target) or off_gpu(target)


def _window(operation: Attend, target: Target) -> str:
    return "" if operation.window else "there is no window to mask"


@dataclass(frozen=True)
class WindowMask(Operation):
    """Which token sees which: True where 0 <= i - j < window; reads the token ids for their number."""

    window: int

    kernels = (Kernel("window_mask", f"{_REFERENCE}:window_mask", "made once per forward"),)
    recomputable = False

    def shapes(self, inputs: Sequence[Shape]) -> tuple[Shape, ...]:
        """Return the mask, which has no token axis of its own."""
        return (MASK,)

    def arguments(self) -> dict[str, Any]:
        """Return the window."""
        return {"window": self.window}

    def table_bytes(self, at: At) -> float:
        """One byte for each pair of tokens."""
        return at.context * at.context


@dataclass(frozen=True)
class Attend(Operation):
    """softmax(q k^T / sqrt(head_dim)) v over the tokens up to each token: (q, k, v[, mask]) -> y."""

    heads: int
    kv_heads: int
    head_dim: int
    window: int | None

    kernels = (
        Kernel(
            "sdpa_ordered",
            "blocks.sequence_attention.ordered:attend_ordered",
            "torch's fused causal attention, by cuDNN where that fits, then flash",
            _unordered,
            check="blocks.sequence_attention.ordered:check",
        ),
        Kernel("sdpa", f"{_REFERENCE}:attend_causal", "torch's fused causal attention", _no_window),
        Kernel(
            "sdpa_masked", f"{_REFERENCE}:attend_masked", "torch's attention under the window's mask", _window
        ),
        Kernel("attend_plain", f"{_REFERENCE}:attend_plain", "reference: scores, mask, softmax, sum"),
    )

    def shapes(self, inputs: Sequence[Shape]) -> tuple[Shape, ...]:
        """Return one vector for each query head."""
        q, kv = (self.heads, self.head_dim), (self.kv_heads, self.head_dim)
        expect(self, inputs, q, kv, kv, *([MASK] if self.window else []))
        return (q,)

    def pairs(self, at: At) -> float:
        """Return the (query, key) pairs per token: T (T + 1) / 2 in all, clipped by the window."""
        if at.full_mask:
            return at.context
        seen = smallest(self.window or at.context, at.context)
        return seen - seen * (seen - 1) / (2 * at.context)

    def flops(self, at: At) -> float:
        """Two products of head_dim per pair and head."""
        return 4 * self.heads * self.head_dim * self.pairs(at)

    def saved(self, at: At) -> Saved:
        """Keep queries, keys, values, the output, one fp32 log-sum-exp per head, and the mask as numbers."""
        mask = at.compute_bytes * at.context * at.context if self.window else 0
        return Saved(inputs=(0, 1, 2), outputs=(0,), extra=4 * self.heads, once=mask)

    def output_bytes(self, at: At, given: Sequence[int], output: int = 0) -> int:
        """It has the precision of the values."""
        return given[2]

    def sequence_cache(self) -> int:
        """Keys and values."""
        return 2 * self.kv_heads * self.head_dim
