"""Depth attention as plain PyTorch with gradients by autograd: slots are lists, which are stacked to be read.

Exported models run it: it is short, and torch.compile traces it. The backward pass keeps a copy of the slots
for each read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.depth_attention.reference import attended, distances, slots_read


class DepthSlots:
    """Keys and values [batch, sequence, kv_heads, head_dim] of a token's own steps so far."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []


def slots(tokens: Tensor, count: int, kv_heads: int, head_dim: int) -> tuple[DepthSlots, Tensor]:
    """Return slots without any step, and the order token, which passes through all that reads or writes."""
    return DepthSlots(), torch.zeros((), device=tokens.device)


def append(key: Tensor, value: Tensor, token: Tensor, memory: DepthSlots, slot: int) -> Tensor:
    """Append a step's keys and values, as number `slot`; return the order token."""
    assert len(memory.keys) == slot, f"slot {slot} is written after {len(memory.keys)} others"
    memory.keys.append(key)
    memory.values.append(value)
    return token


def attend(query: Tensor, token: Tensor, memory: DepthSlots, reads: int) -> Tensor:
    """Attend from each token's query [batch, sequence, heads, head_dim] to its first `reads` slots.

    With `reads` = 0 the output is 0.
    """
    return attend_windowed(query, token, memory, reads=reads, window=None, stride=1)


def attend_windowed(
    query: Tensor,
    token: Tensor,
    memory: DepthSlots,
    bias: Tensor | None = None,
    *,
    reads: int,
    window: int | None,
    stride: int,
) -> Tensor:
    """Attend to every `stride`-th of the last `window` of the first `reads` slots, counted from the last.

    `bias` [heads] times the slot's distance from the latest slot is subtracted from its scores.
    """
    part = slots_read(reads, window, stride)
    if not part.stop:
        return torch.zeros_like(query)
    keys, values = torch.stack(memory.keys[part]), torch.stack(memory.values[part])
    far = None if bias is None else distances(bias, part, query.shape[2] // keys.shape[3])
    return attended(query, keys, values, far)[0]
