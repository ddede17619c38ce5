"""Base class of attention over tokens and slots. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import CostContext
from blocks.ir.operation import ORIGIN, LoopIndex
from blocks.kernels.slots import SlotRead
from blocks.sequence_attention.operations import WindowAttend


@dataclass(frozen=True)
class SlotAttend(SlotRead):
    """Base class of attention over both tokens and slots of steps.

    Without a window, `window` is at least the context.
    """

    heads: int
    kv_heads: int
    head_dim: int
    window: int
    sinks: int = 0
    reads: LoopIndex = ORIGIN

    def arguments(self) -> dict[str, Any]:
        return {"reads": self.reads}

    def decoding_arguments(self) -> dict[str, Any]:
        return {"reads": self.reads, "window": self.window, "sinks": self.sinks}

    def tokens(self) -> WindowAttend:
        """Return the attention over the tokens of a single step."""
        return WindowAttend(self.heads, self.kv_heads, self.head_dim, self.window, sinks=self.sinks)

    def sequence_cache(self, at: CostContext) -> int:
        """Keys and values of the tokens of this step."""
        return self.tokens().sequence_cache(at)

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Inputs, outputs and every slot that is read."""
        slots = self.reads.mean(at.trips) * 2 * self.kv_heads * self.head_dim
        return read + written + at.compute_bytes * slots
