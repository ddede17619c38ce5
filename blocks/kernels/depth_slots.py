"""Depth slots as lists of tensors, which autograd follows.

Exported models keep slots so: reads and writes are short, and torch.compile traces them. The backward pass
keeps a copy of the slots for each read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.kernels.past import Past


class DepthSlots:
    """Keys and values [batch, sequence, kv_heads, head_dim] of a token's own steps so far.

    Attributes:
        scope: in generation, what identifies their caches.
    """

    scope: tuple[str, int] = ("", 0)

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor]] = []

    def write(self, slot: int, key: Tensor, value: Tensor) -> None:
        """Append a step's keys and values, as number `slot`."""
        assert len(self.kept) == slot, f"slot {slot} is written after {len(self.kept)} others"
        self.kept.append((key, value))

    def read(self, part: slice) -> tuple[Tensor, Tensor]:
        """Return the keys and the values of some slots: [slots, batch, sequence, kv_heads, head_dim]."""
        keys, values = zip(*self.kept[part], strict=True)
        return torch.stack(keys), torch.stack(values)


def slots(tokens: Tensor, count: int, kv_heads: int, head_dim: int) -> tuple[DepthSlots, Tensor]:
    """Return slots without any step, and the order token, which passes through all that reads or writes."""
    return DepthSlots(), torch.zeros((), device=tokens.device)


def next_slots(
    tokens: Tensor, past: Past, count: int, kv_heads: int, head_dim: int, *, place: str, use: int
) -> tuple[DepthSlots, Tensor]:
    """Return the same for new tokens in generation, with the scope that identifies their caches."""
    memory, token = slots(tokens, count, kv_heads, head_dim)
    memory.scope = (place, use)
    return memory, token


def append(key: Tensor, value: Tensor, token: Tensor, memory: DepthSlots, slot: int) -> Tensor:
    """Append a step's keys and values, as number `slot`; return the order token."""
    memory.write(slot, key, value)
    return token
