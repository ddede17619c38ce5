"""Chooses between two methods for the gradients of slots by their memory traffic. Torch-free."""

from __future__ import annotations

from typing import Literal

Way = Literal["pull", "push"]


def pull_bytes(heads: int, kv_heads: int, head_dim: int, slots: int, element_bytes: int) -> int:
    """Return the bytes per token that `pull` moves for the gradients of all slots.

    Each of T slots is read once and its gradient written once, `4 Hk d e`. For each of the T (T + 1) / 2
    pairs of a slot and a step that reads it, queries, gradients of outputs and two fp32 numbers per head are
    read, `2 H d e + 8 H`.
    """
    pairs = slots * (slots + 1) // 2
    read = 2 * heads * head_dim * element_bytes + 8 * heads
    return pairs * read + slots * 4 * kv_heads * head_dim * element_bytes


def push_bytes(heads: int, kv_heads: int, head_dim: int, slots: int, element_bytes: int) -> int:
    """Return the bytes per token that `push` moves for the gradients of all slots.

    Each of the T (T + 1) / 2 pairs reads and writes fp32 gradients of keys and values, `16 Hk d`. For each
    slot these are zeroed, read, and written once in the dtype of the slot, `16 Hk d + 2 Hk d e`. Queries and
    slots are read for the gradient of the queries anyway and are not counted.
    """
    pairs = slots * (slots + 1) // 2
    slot = kv_heads * head_dim
    return pairs * 16 * slot + slots * (16 + 2 * element_bytes) * slot


def backward_method(heads: int, kv_heads: int, head_dim: int, slots: int, element_bytes: int) -> Way:
    """Return the method that moves fewer bytes; `pull` if they are equal, since it rounds only once.

    In bf16 this is pull for up to 4 query heads per kv head (2 in fp32), else push; 4 is close to a tie.
    """
    sizes = (heads, kv_heads, head_dim, slots, element_bytes)
    return "pull" if pull_bytes(*sizes) <= push_bytes(*sizes) else "push"
