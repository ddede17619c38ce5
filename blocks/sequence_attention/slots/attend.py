"""What attention over both tokens and slots shares. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blocks.ir.costs import CostContext
from blocks.ir.operation import ORIGIN, LoopIndex
from blocks.kernels.slots import SlotRead
from blocks.sequence_attention.operations import WindowAttend


@dataclass(frozen=True)
class SlotAttend(SlotRead):
    """The sizes of attention that reads slots of steps beside tokens.

    Without a window `window` is the context or more.
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
        """Return attention over the tokens of one step alone."""
        return WindowAttend(self.heads, self.kv_heads, self.head_dim, self.window, sinks=self.sinks)

    def sequence_cache(self, at: CostContext) -> int:
        """Keys and values of this step's tokens."""
        return self.tokens().sequence_cache(at)

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """What comes and goes, and every slot that is read."""
        slots = self.reads.mean(at.trips) * 2 * self.kv_heads * self.head_dim
        return read + written + at.compute_bytes * slots
