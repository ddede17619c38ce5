"""The fewest bytes that each measured operation must move, per token; a floor divides them by a copy's rate.

Everything is read once and written once, in the precision it is kept in; weights that make products come on
top in `routed_experts`. H query heads, Hk kv heads, d their size, e bytes of an element, t slots that a step
reads, T steps of a loop, whose steps read 1 .. T slots. Torch-free.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Way = Literal["pull", "push"]


class Heads(NamedTuple):
    """The sizes of depth attention; `element` is bytes of an element of queries and slots."""

    heads: int
    kv_heads: int
    head_dim: int
    element: int = 2

    @property
    def query(self) -> int:
        """Bytes of a token's queries, which its outputs and their gradients take as well: H d e."""
        return self.heads * self.head_dim * self.element

    @property
    def slot(self) -> int:
        """Bytes of a token's keys and values of one slot: 2 Hk d e."""
        return 2 * self.kv_heads * self.head_dim * self.element


def depth_forward(at: Heads, reads: int) -> int:
    """Queries and t slots are read, outputs written: 2 H d e + 2 t Hk d e."""
    return 2 * at.query + reads * at.slot


def depth_to_query(at: Heads, reads: int) -> int:
    """The gradient of the queries alone; queries, outputs and their gradient read: 4 H d e + 2 t Hk d e."""
    return 4 * at.query + reads * at.slot


def depth_both(at: Heads, reads: int) -> int:
    """Forward, then the gradients of queries and of all slots, each written once: 6 H d e + 6 t Hk d e."""
    return depth_forward(at, reads) + depth_to_query(at, reads) + reads * at.slot


def depth_loop(at: Heads, steps: int, way: Way, sums: int = 4) -> int:
    """The backward pass of a loop of T steps.

    Both ways make the gradients of queries at each step, `depth_to_query`. Then pull reads for each of the
    T (T + 1) / 2 pairs of a step and a slot it read the queries, the gradients of outputs and two fp32
    numbers a head, 2 H d e + 8 H, and for each slot keys and values, whose gradients it writes, 4 Hk d e.
    Push reads and writes for each pair sums of gradients whose elements take `sums` bytes, 4 Hk d sums.
    """
    pairs = steps * (steps + 1) // 2
    to_queries = sum(depth_to_query(at, reads) for reads in range(1, steps + 1))
    if way == "pull":
        return to_queries + pairs * (2 * at.query + 8 * at.heads) + steps * 2 * at.slot
    return to_queries + pairs * 4 * at.kv_heads * at.head_dim * sums


def routing(experts: int, active: int) -> int:
    """From logits to a permutation, per token.

    E logits in fp32 are read; k weights in fp32 and k indices are written, and k places in the permutation,
    as int32: 4 E + 12 k.
    """
    return 4 * experts + 12 * active


def append(at: Heads) -> int:
    """Keys and values are read, and written into their slot: 4 Hk d e."""
    return 2 * at.slot
