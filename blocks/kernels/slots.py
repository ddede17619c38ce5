"""What the passes know of depth state: slots are made, written and read in order. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blocks.ir.costs import SavesNothing
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation
from blocks.ir.tensor_type import ORDER, TensorType


def slots_of(given: TensorType, kv_heads: int, head_dim: int) -> TensorType:
    """Return the type of the slots that an operation with keys of these sizes expects, however many."""
    return TensorType((*given.shape[:1], 2, kv_heads, head_dim), kind="depth_cache")


class DepthCache(SavesNothing, Operation):
    """Room for what the steps of one depth scope write: (tokens) -> (slots, token).

    The token is a scalar that every write returns and every read takes, so that the backward pass
    reaches a write only after all reads of its slot.
    """

    count: int
    """How many slots there are; a pass fills it in."""

    recomputable = False

    def elements(self) -> int:
        """Return the elements per token of all slots, in the precision of products; gradients are in fp32."""
        raise NotImplementedError


@dataclass(frozen=True)
class DepthKVCache(DepthCache):
    """Room for the keys and values that the steps of one depth scope append."""

    kv_heads: int
    head_dim: int
    count: int = 0

    kernels = (
        Kernel("slots", "blocks.kernels.slot_memory:slots", "allocated once per forward, indexed explicitly"),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the slots [count, 2 (key, value), kv_heads, head_dim] and the token."""
        return (TensorType((self.count, 2, self.kv_heads, self.head_dim), kind="depth_cache"), ORDER)

    def arguments(self) -> dict[str, Any]:
        """Return the sizes."""
        return {"count": self.count, "kv_heads": self.kv_heads, "head_dim": self.head_dim}

    def elements(self) -> int:
        """Return the elements per token of all slots."""
        return self.count * 2 * self.kv_heads * self.head_dim


class SlotWrite(SavesNothing, Operation):
    """An operation that writes one slot: last inputs (.., token, slots), output the next token."""

    slot: LoopIndex

    recomputable = False

    def passes(self, output: int) -> int | None:
        """A skipped write passes its order token on."""
        return -2


class SlotRead(Operation):
    """An operation that reads the first `reads` slots: its last inputs are (.., token, slots)."""

    span: Literal["inclusive", "exclusive"]
    reads: LoopIndex

    recomputable = False
