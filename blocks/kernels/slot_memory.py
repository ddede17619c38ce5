"""The memory that depth state lives in: preallocated slots, written and read by explicit index."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from blocks.kernels.past import Past


class DepthMemory:
    """Slots that steps write and read in one forward pass, and their gradients in a backward pass."""

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        self._shape = shape
        self._device = device
        self._pass = -1
        self._made = self.running()

    @staticmethod
    def running() -> int:
        """Return the number of the backward pass that is running, -1 where none is."""
        return torch._C._current_graph_task_id()

    def check(self, made: int) -> None:
        """Refuse the backward pass of a step that ran in pass `made`, unless the memory was made there too.

        Checkpoints by `use_reentrant=True` run steps again in a backward pass and begin another inside it:
        gradients of slots would be spread over passes that do not know each other.

        Raises:
            RuntimeError: it is such a step.
        """
        if made != self._made:
            raise RuntimeError(
                "a step that reads earlier ones ran again in a checkpoint that holds only some of them, with "
                "its own backward pass: torch.utils.checkpoint.checkpoint needs use_reentrant=False here"
            )

    def begins(self) -> bool:
        """Return whether this backward pass is a new one; an earlier one may have left gradients behind."""
        before, self._pass = self._pass, self.running()
        return self._pass != before


class SlotMemory(DepthMemory):
    """Keys and values of every step of one depth scope, for one forward pass.

    `keys` and `values` are [count, batch, sequence, kv_heads, head_dim], allocated at the first write in
    its dtype. Gradients of slots gather at least in fp32 during the backward pass and are handed out once.

    Attributes:
        wanted: of slots whose append fetches what reads leave for it, whether it wants gradients at all.
        reads: how many reads there were.
        scope: in generation, what tells the scope's slots from others.
    """

    scope: tuple[str, int] = ("", 0)

    def __init__(self, shape: tuple[int, ...], device: torch.device):
        super().__init__(shape, device)
        self.keys = self.values = torch.empty(0, device=device)
        self.wanted: dict[int, bool] = {}
        self.reads = 0
        self._gradients: tuple[Tensor, Tensor] | None = None
        self._left: list[Any] = []

    def write(self, slot: int, key: Tensor, value: Tensor) -> None:
        """Write one slot; writing the same values again changes nothing."""
        keys, values = self.slot(slot, key.dtype)
        keys.copy_(key)
        values.copy_(value)

    def slot(self, slot: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return where one slot's key and value are written; the first time that, in a dtype, is made."""
        if not self.keys.numel():
            self.keys = torch.empty(self._shape, dtype=dtype, device=self._device)
            self.values = torch.empty_like(self.keys)
        return self.keys[slot], self.values[slot]

    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return where the running backward pass gathers gradients of keys and values, zero at its start."""
        self._begin()
        if self._gradients is None:
            dtype = torch.promote_types(self.keys.dtype, torch.float32)
            zeros = torch.zeros(self._shape, dtype=dtype, device=self._device)
            self._gradients = (zeros, zeros.clone())
        return self._gradients

    def only(self, reads: int) -> tuple[Tensor, Tensor]:
        """Return where the only read of all writes the gradients of its slots; zero for slots it did not see.

        They need not gather, and have the dtype of the slots.
        """
        self._begin()
        keys, values = self._gradients = torch.empty_like(self.keys), torch.empty_like(self.values)
        keys[reads:].zero_()
        values[reads:].zero_()
        return keys, values

    def pushed(self) -> bool:
        """Return whether the running backward pass has gathered any."""
        self._begin()
        return self._gradients is not None

    def left(self) -> list[Any]:
        """Return the list of what reads of the running backward pass left for appends to fetch."""
        self._begin()
        return self._left

    def forget(self) -> None:
        """Let go of what reads left."""
        self._left = []

    def gradient(self, slot: int) -> tuple[Tensor, Tensor]:
        """Return the gradients of one slot's key and value, which nobody changes any more."""
        keys, values = self.gradients()
        if self.reads == 1:
            return keys[slot], values[slot]
        return keys[slot].clone(), values[slot].clone()

    def _begin(self) -> None:
        if self.begins():
            self._gradients, self._left = None, []


def slots(tokens: Tensor, count: int, kv_heads: int, head_dim: int) -> tuple[SlotMemory, Tensor]:
    """Return empty slots for tokens [batch, sequence], and the first token of their order."""
    memory = SlotMemory((count, *tokens.shape, kv_heads, head_dim), tokens.device)
    return memory, torch.zeros((), device=tokens.device)


def next_slots(
    tokens: Tensor, past: Past, count: int, kv_heads: int, head_dim: int, *, place: str, use: int
) -> tuple[SlotMemory, Tensor]:
    """Do the same for new tokens: the slots go with them, but what is kept of all tokens finds its scope."""
    memory, token = slots(tokens, count, kv_heads, head_dim)
    memory.scope = (place, use)
    return memory, token


def append(key: Tensor, value: Tensor, token: Tensor, memory: SlotMemory, slot: int) -> Tensor:
    """Write key and value [batch, sequence, kv_heads, head_dim] into a slot; return the next token."""
    result: Tensor = _Append.apply(key, value, token, memory, slot)  # type: ignore[no-untyped-call]
    return result


class _Append(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, key: Tensor, value: Tensor, token: Tensor, memory: SlotMemory, slot: int) -> Tensor:
        memory.write(slot, key, value)
        ctx.memory, ctx.slot, ctx.dtypes = memory, slot, (key.dtype, value.dtype)
        ctx.made = memory.running()
        ctx.set_materialize_grads(False)
        # no view, of which FSDP warns
        return torch.empty_like(token)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.memory.check(ctx.made)
        key, value = ctx.memory.gradient(ctx.slot)
        return key.to(ctx.dtypes[0]), value.to(ctx.dtypes[1]), None, None, None
