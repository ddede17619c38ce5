"""Base operations of depth caches: allocation, write and read of slots. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from blocks.ir.costs import CostContext, IOBytes, SavesNothing, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import ORIGIN, LoopIndex, Operation, expect
from blocks.ir.tensor_type import ORDER, TensorType

Reach = Literal["recur", "stage", "model"]
"""The steps that share depth slots. `recur`: those of the innermost enclosing recurrent stage, else of the
innermost stage; `stage`: those of the outermost enclosing stage; `model`: those of all stages.
"""


def slots_of(given: TensorType, kv_heads: int, head_dim: int) -> TensorType:
    """Return the expected type of the slots for keys of these sizes, with the number of slots of `given`."""
    return TensorType((*given.shape[:1], 2, kv_heads, head_dim), kind="depth_cache")


class DepthCache(SavesNothing, Operation):
    """Allocate the slots of one depth scope: (tokens) -> (slots, token).

    The token is a scalar that every write returns and every read takes, so that the backward pass reaches a
    write only after all reads of its slot.
    """

    count: int
    """The number of slots, set by a pass."""

    recomputable = False
    decoding = LOCAL

    def elements(self) -> int:
        """Return the elements per token of all slots, in the precision of products; gradients are in fp32."""
        raise NotImplementedError


@dataclass(frozen=True)
class DepthKVCache(DepthCache):
    """Allocate the keys and values of the steps of one depth scope."""

    kv_heads: int
    head_dim: int
    count: int = 0

    decoding = "blocks.kernels.slot_memory:next_slots"
    kernels = (
        Kernel(
            "slots",
            "blocks.kernels.slot_memory:slots",
            "allocated once per forward, indexed explicitly",
            by_autograd="blocks.kernels.depth_slots:slots",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the slots [count, 2 (key, value), kv_heads, head_dim] and the token."""
        return (TensorType((self.count, 2, self.kv_heads, self.head_dim), kind="depth_cache"), ORDER)

    def arguments(self) -> dict[str, Any]:
        return {"count": self.count, "kv_heads": self.kv_heads, "head_dim": self.head_dim}

    def elements(self) -> int:
        """Return the elements per token of all slots."""
        return self.count * 2 * self.kv_heads * self.head_dim


class SlotWrite(SavesNothing, Operation):
    """An operation that writes one slot: last inputs (.., token, slots), output the next token."""

    slot: LoopIndex

    counts_steps: ClassVar[bool] = True
    """Whether it advances the slot index; parallel writes of a step share an index."""

    passes_on = -2
    recomputable = False
    decoding = LOCAL


@dataclass(frozen=True)
class WriteSlot(SlotWrite):
    """Write the keys and values of a step into their slot: (k, v, token, slots) -> token."""

    kv_heads: int
    head_dim: int
    slot: LoopIndex = ORIGIN

    passes_on = 2
    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel(
            "slot_write",
            "blocks.kernels.slot_memory:append",
            "written in place once, no list is stacked",
            by_autograd="blocks.kernels.depth_slots:append",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        kv = (self.kv_heads, self.head_dim)
        expect(self, inputs, kv, kv, ORDER, slots_of(inputs[-1], *kv))
        return (ORDER,)

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Read keys and values, write them into the slot."""
        return 2 * at.compute_bytes * 2 * self.kv_heads * self.head_dim

    def arguments(self) -> dict[str, Any]:
        return {"slot": self.slot}

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Backward copies the slot's gradients in fp32, and casts them to narrower keys and values."""
        backward = 2 * self.kv_heads * self.head_dim * (4 + (at.compute_bytes if at.widened else 0))
        return WorkspaceBytes(0, backward, backward)


class WriteExtraSlot(WriteSlot):
    """Write additional keys and values of the same step: (k, v, token, slots) -> token."""

    counts_steps: ClassVar[bool] = False


class SlotRead(Operation):
    """An operation that reads the first `reads` slots: its last inputs are (.., token, slots)."""

    span: Literal["inclusive", "exclusive"]
    reads: LoopIndex

    recomputable = False
    decoding = LOCAL
