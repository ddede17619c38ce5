"""Two ways to the gradients of slots, and which moves fewer bytes. Torch-free."""

from __future__ import annotations

from typing import Literal

Way = Literal["pull", "push"]


def pull_bytes(heads: int, kv_heads: int, head_dim: int, slots: int, element_bytes: int) -> int:
    """Return the bytes per token that `pull` moves for the gradients of all slots.

    Each of T slots is read once with its gradient written once, `4 Hk d e`, and for it the queries, their
    outputs' gradients and two fp32 numbers per head of each of the steps that read it, `2 H d e + 8 H`; there
    are T (T + 1) / 2 such pairs.
    """
    pairs = slots * (slots + 1) // 2
    read = 2 * heads * head_dim * element_bytes + 8 * heads
    return pairs * read + slots * 4 * kv_heads * head_dim * element_bytes


def push_bytes(heads: int, kv_heads: int, head_dim: int, slots: int, element_bytes: int) -> int:
    """Return the bytes per token that `push` moves for the gradients of all slots.

    Each of the T (T + 1) / 2 pairs reads and writes fp32 gradients of keys and values, `16 Hk d`; for each
    slot these are zeroed, read and written once more in its own precision, `16 Hk d + 2 Hk d e`. Whoever
    pushes reads queries and slots for the gradient of the queries anyway, so these are not counted.
    """
    pairs = slots * (slots + 1) // 2
    slot = kv_heads * head_dim
    return pairs * 16 * slot + slots * (16 + 2 * element_bytes) * slot


def backward_method(heads: int, kv_heads: int, head_dim: int, slots: int, element_bytes: int) -> Way:
    """Return the way that moves fewer bytes; `pull` where they are equal, for it rounds once.

    In bf16 that is pull for groups of up to 4 query heads to a kv head (2 in fp32), push above; a group of 4
    is close to a tie.
    """
    sizes = (heads, kv_heads, head_dim, slots, element_bytes)
    return "pull" if pull_bytes(*sizes) <= push_bytes(*sizes) else "push"
