"""The operations of depth attention. Torch-free. A later pass assigns the slot numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel, Target, with_fields
from blocks.ir.numbers import largest
from blocks.ir.operation import ORIGIN, LoopIndex, Operation, expect
from blocks.ir.tensor_type import ORDER, TensorType
from blocks.kernels.gpu import off_triton
from blocks.kernels.slots import SlotRead, WriteSlot, slots_of
from blocks.primitives.operations import RotateStep, step_angles

_REFERENCE = "blocks.depth_attention.reference"
_COMPILED = "blocks.depth_attention.compiled"
_FUSED = "blocks.depth_attention.fused"
_CHECK = "blocks.depth_attention.check:check"
_LARGEST = 128


def unfit(operation: WriteKV | Attend, target: Target) -> str:
    """Return why the Triton kernels cannot run an operation, or "" if they can."""
    larger = operation.head_dim > _LARGEST
    return off_triton(operation, target) or (f"heads are larger than {_LARGEST}" if larger else "")


class WriteKV(WriteSlot):
    """Write this step's keys and values into their slot: (k, v, token, slots) -> token."""

    kernels = (
        Kernel(
            "triton_append",
            f"{_FUSED}:append",
            "gradients of all reads fetched by one kernel",
            unfit,
            check=_CHECK,
        ),
        *WriteSlot.kernels,
    )

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the rotary embedding of the key."""
        if position or shared or not isinstance(producer, RotateStep):
            return None
        return RotaryWriteKV(self.kv_heads, self.head_dim, self.slot, producer.index)


@dataclass(frozen=True)
class Attend(SlotRead):
    """softmax(q k^T / sqrt(head_dim)) v over the token's own first slots: (q, token, slots) -> y."""

    heads: int
    kv_heads: int
    head_dim: int
    span: Literal["inclusive", "exclusive"]
    reads: LoopIndex = ORIGIN
    fused: bool = False
    """Whether a Triton kernel runs it, which does not save the attention weights."""

    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel(
            "triton_attend",
            f"{_FUSED}:attend",
            "one kernel; each slot is read once per kv head, only the log-sum-exp is kept",
            unfit,
            specialize=with_fields(fused=True),
            check=_CHECK,
        ),
        Kernel(
            "slot_attend",
            f"{_REFERENCE}:attend",
            "elementwise over the slots; bound by bytes",
            specialize=with_fields(fused=False),
            compiled=f"{_COMPILED}:attend",
            by_autograd="blocks.depth_attention.by_autograd:attend",
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        q = (self.heads, self.head_dim)
        expect(self, inputs, q, ORDER, slots_of(inputs[-1], self.kv_heads, self.head_dim))
        return (inputs[0],)

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Fuse the rotary embedding of the query."""
        if type(self) is not Attend or position or shared or not isinstance(producer, RotateStep):
            return None
        sizes = self.heads, self.kv_heads, self.head_dim, self.span, self.reads
        return RotaryAttend(*sizes, index=producer.index)

    def arguments(self) -> dict[str, Any]:
        return {"reads": self.reads}

    def slots(self, at: CostContext) -> float:
        """Return the number of slots that an execution reads on average."""
        return self.reads.mean(at.trips)

    def flops(self, at: CostContext) -> float:
        """Two dot products of head_dim per head and slot read."""
        return 4 * self.heads * self.head_dim * self.slots(at)

    def traffic(self, at: CostContext, read: float, written: float) -> float:
        """Read the queries and all slots up to the current one, write one vector per query head."""
        slots = self.slots(at) * 2 * self.kv_heads * self.head_dim
        return at.compute_bytes * (2 * self.heads * self.head_dim + slots)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the queries and the fp32 weights; the kernel saves the output and log-sum-exps instead."""
        if self.fused:
            return SavedTensors(inputs=(0,), outputs=(0,), extra=4 * self.heads)
        return SavedTensors(inputs=(0,), extra=4 * self.heads * self.slots(at))

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Queries and slots in fp32, and the elementwise product of queries with every slot.

        The kernel needs the output and one fp32 number per head: the log-sum-exp, backward gradient . output.
        """
        if self.fused:
            return WorkspaceBytes(
                flow.outputs + 4 * self.heads, flow.grad_inputs + 4 * self.heads, flow.grad_inputs
            )
        reads, query = self.slots(at), self.heads * self.head_dim
        slots = reads * self.kv_heads * self.head_dim
        weights, product = 4 * self.heads * reads, 4 * reads * query
        forward = at.widened * (query + 2 * slots) + weights + product + 4 * query
        backward = 2 * at.widened * (query + slots) + 2 * weights + product + 4 * largest(slots, query)
        return WorkspaceBytes(forward, backward, backward)


@dataclass(frozen=True)
class RotaryWriteKV(WriteKV):
    """`WriteKV` that rotates the key: (k, v, token, slots, angles) -> token."""

    index: LoopIndex = ORIGIN

    kernels = (
        Kernel(
            "triton_append_rotated",
            f"{_FUSED}:append_rotated",
            "keys turned on their way into the slot; gradients of all reads fetched by one kernel",
            unfit,
            check=_CHECK,
        ),
        Kernel(
            "slot_write_rotated", f"{_REFERENCE}:append_rotated", "keys turned, then written in place once"
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs[4:], step_angles(self.head_dim))
        return super().types(inputs[:4])

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "index": self.index}

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Nothing else is fused."""
        return None


@dataclass(frozen=True)
class RotaryAttend(Attend):
    """`Attend` that rotates the queries: (q, token, slots, angles) -> y."""

    index: LoopIndex = ORIGIN

    kernels: ClassVar[tuple[Kernel, ...]] = (
        Kernel(
            "triton_attend_rotated",
            f"{_FUSED}:attend_rotated",
            "one kernel, which turns queries as it reads them; each slot is read once per kv head",
            unfit,
            specialize=with_fields(fused=True),
            check=_CHECK,
        ),
        Kernel(
            "slot_attend_rotated",
            f"{_REFERENCE}:attend_rotated",
            "queries turned, then elementwise over the slots",
            specialize=with_fields(fused=False),
        ),
    )

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs[3:], step_angles(self.head_dim))
        return super().types(inputs[:3])

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "index": self.index}

    def absorb(self, position: int, producer: Operation, shared: bool) -> Operation | None:
        """Nothing else is fused."""
        return None

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the queries before rotation; plain PyTorch saves the rotated ones instead."""
        saved = super().saved(at)
        if self.fused:
            return saved
        return saved._replace(inputs=(), extra=saved.extra + at.compute_bytes * self.heads * self.head_dim)
