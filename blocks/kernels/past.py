"""What generation keeps of earlier tokens: keys and values, and tables of all positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")


class KeysAndValues:
    """Keys and values of one use of attention, allocated once: [batch, kv_heads, size, head_dim] each.

    Where fewer than all tokens are kept, these are the first `sinks` and the latest `size - sinks`; a new
    token takes the place of the oldest of those.
    """

    def __init__(self, like: Tensor, size: int, sinks: int = 0, key_dim: int | None = None) -> None:
        """`like` are values [batch, tokens, kv_heads, head_dim]; keys have as many elements, or `key_dim`."""
        batch, _, kv_heads, head_dim = like.shape
        self.keys = like.new_empty(batch, kv_heads, size, head_dim if key_dim is None else key_dim)
        self.values = like.new_empty(batch, kv_heads, size, head_dim)
        self.size, self.sinks, self.seen = size, sinks, 0

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.keys.nbytes + self.values.nbytes

    def add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep new tokens [batch, tokens, kv_heads, head_dim]; return all that is kept, in any order.

        Several at once have to be the first ones, and what is returned is then what later tokens see.
        """
        first, tokens = self.seen, key.shape[1]
        self.seen += tokens
        places: Any = slice(first, self.seen)
        if self.seen > self.size:
            assert tokens == 1 or not first, "several tokens at once have to be the first"
            latest = self.size - self.sinks
            kept = [
                *range(first, min(self.sinks, self.seen)),
                *range(max(first, self.seen - latest), self.seen),
            ]
            key, value = (x if tokens == 1 else x[:, kept] for x in (key, value))
            places = [each if each < self.size else self._turned(each) for each in kept]
            places = places[0] if tokens == 1 else places
            if tokens == 1:
                places = slice(places, places + 1)
        self.keys[:, :, places] = key.transpose(1, 2).to(self.keys.dtype)
        self.values[:, :, places] = value.transpose(1, 2)
        there = min(self.seen, self.size)
        return self.keys[:, :, :there], self.values[:, :, :there]

    def _turned(self, position: int) -> int:
        return self.sinks + (position - self.sinks) % (self.size - self.sinks)


class Past:
    """What one generation keeps, by the place of an operation and the number of its use there.

    Attributes:
        position: of the first new token.
        capacity: how many tokens there will be at most.
    """

    def __init__(self, capacity: int) -> None:
        self.position, self.capacity = 0, capacity
        self._held: dict[tuple[str, int], Any] = {}

    def held(self, place: str, use: int, make: Callable[[], T]) -> T:
        """Return what is kept there, made at the first call."""
        found: T | None = self._held.get((place, use))
        if found is None:
            found = self._held[place, use] = make()
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, those of every row of the batch."""
        return sum(
            each.nbytes
            for held in self._held.values()
            for each in (held if isinstance(held, list) else [held])
            if isinstance(each, KeysAndValues)
        )
