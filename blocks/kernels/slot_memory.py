"""The storage of depth caches: preallocated slots, written and read by index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.backward_passes import running
from blocks.kernels.depth_slots import DepthSlots
from blocks.kernels.past import Past


class DepthMemory:
    """Slots of one forward pass, and their gradients in a backward pass."""

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        self._shape = shape
        self._device = device
        self._pass = -1
        self._made = running()

    def check(self, made: int) -> None:
        """Check that a step ran in the same backward pass, `made`, as the memory was created in.

        Checkpoints with `use_reentrant=True` run steps again inside a backward pass and start a nested one;
        gradients of slots would be split between the two.

        Raises:
            RuntimeError: the step ran in another backward pass.
        """
        if made != self._made:
            raise RuntimeError(
                "a step that reads earlier ones ran again in a checkpoint that holds only some of them, with "
                "its own backward pass: torch.utils.checkpoint.checkpoint needs use_reentrant=False here"
            )

    def begins(self) -> bool:
        """Return whether the backward pass is a new one, so that gradients of an earlier one are stale."""
        before, self._pass = self._pass, running()
        return self._pass != before


class SlotMemory(DepthMemory, DepthSlots):
    """Keys and values of all steps of one depth scope, for one forward pass.

    `keys` and `values` are [count, batch, sequence, kv_heads, head_dim], allocated at the first write in its
    dtype. Gradients of slots are accumulated in fp32 or wider.

    Attributes:
        wanted: for slots whose append pulls gradients, whether it needs any.
        reads: the number of reads.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        super().__init__(shape, device)
        self.keys = self.values = torch.empty(0, device=device)
        self.wanted: dict[int, bool] = {}
        self.reads = 0
        self._gradients: tuple[Tensor, Tensor] | None = None
        self._left: list[Any] = []

    def write(self, slot: int, key: Tensor, value: Tensor) -> None:
        """Write one slot."""
        keys, values = self.slot(slot, key.dtype)
        keys.copy_(key)
        values.copy_(value)

    def read(self, part: slice) -> tuple[Tensor, Tensor]:
        """Return some slots, as views."""
        return self.keys[part], self.values[part]

    def slot(self, slot: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the key and the value of one slot to write to; the first call allocates all in `dtype`."""
        if not self.keys.numel():
            self.keys = torch.empty(self._shape, dtype=dtype, device=self._device)
            self.values = torch.empty_like(self.keys)
        return self.keys[slot], self.values[slot]

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of keys and values that the running backward pass accumulates, from 0 on."""
        self._begin()
        if self._gradients is None:
            dtype = torch.promote_types(self.keys.dtype, torch.float32)
            zeros = torch.zeros(self._shape, dtype=dtype, device=self._device)
            self._gradients = (zeros, zeros.clone())
        return self._gradients

    def only(self, reads: int) -> tuple[Tensor, Tensor]:
        """Return uninitialized gradients of the first `reads` slots for the only read, zero for the others.

        Without accumulation they have the dtype of the slots.
        """
        self._begin()
        keys, values = self._gradients = torch.empty_like(self.keys), torch.empty_like(self.values)
        keys[reads:].zero_()
        values[reads:].zero_()
        return keys, values

    def pushed(self) -> bool:
        """Return whether the running backward pass has accumulated gradients."""
        self._begin()
        return self._gradients is not None

    def left(self) -> list[Any]:
        """Return the records that reads of the running backward pass left for appends to pull."""
        self._begin()
        return self._left

    def drop(self, number: int = -1) -> None:
        """Drop the records of reads, those of the backward pass that ends."""
        self._left = []

    def gradient(self, slot: int) -> tuple[Tensor, Tensor]:
        """Return the final gradients of one slot's key and value."""
        keys, values = self.gradients()
        if self.reads == 1:
            return keys[slot], values[slot]
        return keys[slot].clone(), values[slot].clone()

    def _begin(self) -> None:
        if self.begins():
            self._gradients, self._left = None, []


def slots(tokens: Tensor, count: int, kv_heads: int, head_dim: int) -> tuple[SlotMemory, Tensor]:
    """Return uninitialized slots for tokens [batch, sequence], and the first order token."""
    memory = SlotMemory((count, *tokens.shape, kv_heads, head_dim), tokens.device)
    return memory, torch.zeros((), device=tokens.device)


def next_slots(
    tokens: Tensor, past: Past, count: int, kv_heads: int, head_dim: int, *, place: str, use: int
) -> tuple[SlotMemory, Tensor]:
    """Return slots for new tokens in generation, with the scope that identifies their caches."""
    memory, token = slots(tokens, count, kv_heads, head_dim)
    memory.scope = (place, use)
    return memory, token


def append(key: Tensor, value: Tensor, token: Tensor, memory: SlotMemory, slot: int) -> Tensor:
    """Write key and value [batch, sequence, kv_heads, head_dim] into a slot; return the next order token."""
    if not torch.is_grad_enabled():
        memory.write(slot, key, value)
        return token
    result: Tensor = _Append.apply(key, value, token, memory, slot)  # type: ignore[no-untyped-call]
    return result


class _Append(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, token: Tensor, memory: SlotMemory, slot: int) -> Tensor:
        memory.write(slot, key, value)
        ctx.memory, ctx.slot, ctx.dtypes = memory, slot, (key.dtype, value.dtype)
        ctx.made = running()
        ctx.set_materialize_grads(False)
        # no view, of which FSDP warns
        return torch.empty_like(token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        key, value = ctx.memory.gradient(ctx.slot)
        return key.to(ctx.dtypes[0]), value.to(ctx.dtypes[1]), None, None, None
