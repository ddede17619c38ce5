"""What generation keeps of earlier tokens: keys and values, and tables of all positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Kept(NamedTuple):
    """What a new token sees: keys and values [batch, kv_heads, n, head_dim], in any order.

    `mask` [batch, 1, 1, n] is True where a row has them, None where all rows have all of them.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


class KVCache:
    """Keys and values of one use of attention, allocated once: [batch, kv_heads, size, head_dim] each.

    Where fewer than all tokens are kept, these are the first `sinks` and the latest `size - sinks`; a new
    token takes the place of the oldest of those.
    """

    def __init__(self, like: Tensor, size: int, sinks: int = 0, key_dim: int | None = None) -> None:
        """`like` are values [batch, tokens, kv_heads, head_dim]; keys have as many elements, or `key_dim`."""
        batch, _, kv_heads, head_dim = like.shape
        # zeros, since what is masked must be finite
        self.keys = like.new_zeros(batch, kv_heads, size, head_dim if key_dim is None else key_dim)
        self.values = like.new_zeros(batch, kv_heads, size, head_dim)
        self.size, self.sinks = size, sinks

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.keys.nbytes + self.values.nbytes

    def take_rows(self, rows: Tensor) -> None:
        """Go on with rows of the batch, by their numbers [batch]."""
        self.keys, self.values = self.keys[rows], self.values[rows]

    def begin(self, key: Tensor, value: Tensor, lengths: int | Tensor) -> None:
        """Keep the first tokens [batch, tokens, kv_heads, head_dim], of each row the first `lengths`."""
        tokens = key.shape[1]
        if tokens <= self.size:
            self.keys[:, :, :tokens] = key.transpose(1, 2)
            self.values[:, :, :tokens] = value.transpose(1, 2)
            return
        latest, place = self.size - self.sinks, torch.arange(self.size, device=key.device)
        end = lengths if isinstance(lengths, int) else lengths[:, None]
        token = place + latest * ((end - 1 - place) // max(latest, 1))
        token = torch.where(place < self.sinks, place, token).clamp(min=0).expand(len(key), -1)
        rows = torch.arange(len(key), device=key.device)[:, None]
        self.keys.copy_(key[rows, token].transpose(1, 2))
        self.values.copy_(value[rows, token].transpose(1, 2))

    def add(self, key: Tensor, value: Tensor, position: int | Tensor) -> Kept:
        """Keep a token [batch, 1, kv_heads, head_dim] at a position, or at each row's own [batch].

        Returns what it sees, itself included.
        """
        latest = max(self.size - self.sinks, 1)
        if isinstance(position, int):
            turned = self.sinks + (position - self.sinks) % latest
            place = position if position < self.size else turned
            self.keys[:, :, place] = key[:, 0]
            self.values[:, :, place] = value[:, 0]
        else:
            turned_ones = self.sinks + (position - self.sinks) % latest
            places = torch.where(position < self.size, position, turned_ones)
            rows = torch.arange(len(key), device=key.device)
            self.keys[rows, :, places] = key[:, 0].to(self.keys.dtype)
            self.values[rows, :, places] = value[:, 0]
        return self.seen(position)

    def seen(self, position: int | Tensor) -> Kept:
        """Return what the token at a position, which was added, sees."""
        if isinstance(position, int):
            there = min(position + 1, self.size)
            return Kept(self.keys[:, :, :there], self.values[:, :, :there])
        mask = torch.arange(self.size, device=self.keys.device) <= position[:, None]
        return Kept(self.keys, self.values, mask[:, None, None])


class State:
    """A state of fixed size that each new token changes."""

    def __init__(self, tensor: Tensor) -> None:
        """`tensor` is what it is before the first token, for every row of the batch."""
        self.tensor = tensor

    def put(self, tensor: Tensor) -> None:
        """Keep another one, where the first was: a recorded step reads it there."""
        if tensor.dtype == self.tensor.dtype and tensor.shape == self.tensor.shape:
            self.tensor.copy_(tensor)
        else:
            self.tensor = tensor

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return self.tensor.nbytes

    def take_rows(self, rows: Tensor) -> None:
        """Go on with rows of the batch, by their numbers [batch]."""
        self.tensor = self.tensor[rows]


class Past:
    """What one generation keeps, by the place of an operation and the number of its use there.

    Attributes:
        position: of the first new token.
        capacity: how many tokens there will be at most.
        padding: how many of the first tokens of each row [batch], its last ones, are none; None for no such
            row. Later tokens come in their place.
        at: the position of a token [batch] on the device, where steps are recorded and replayed.
        runs: which of the tokens that a step of some tokens was given run it, [batch, chosen], by the place
            of what chose them.
    """

    def __init__(
        self,
        capacity: int,
        padding: Tensor | None = None,
        use_of: Callable[[str, int], int] = lambda _, use: use,
    ) -> None:
        """`use_of` gives, of a place and a use, the use whose keys and values it shares."""
        self.position, self.capacity, self.padding = 0, capacity, padding
        self.at: Tensor | None = None
        self.runs: dict[str, Tensor] = {}
        self._use_of = use_of
        self._held: dict[tuple[str, int], Any] = {}

    @property
    def positions(self) -> int | Tensor:
        """The position of the first new token, of each row [batch] where rows are padded or `at` says it."""
        if self.at is not None:
            return self.at
        return self.position if self.padding is None or not self.position else self.position - self.padding

    def held(self, place: str, use: int, make: Callable[[], T]) -> T:
        """Return what is kept there, made at the first call."""
        key = place, self._use_of(place, use)
        found: T | None = self._held.get(key)
        if found is None:
            found = self._held[key] = make()
        return found

    def keep(self, kept: KVCache, key: Tensor, value: Tensor) -> Kept | None:
        """Keep new tokens: the first ones, of which None is returned, or one more, of which what it sees."""
        if self.position:
            return kept.add(key, value, self.positions)
        tokens = key.shape[1]
        kept.begin(key, value, tokens if self.padding is None else tokens - self.padding)
        return None

    def chosen(self, place: str, runs: Tensor, places: Tensor) -> None:
        """Note which tokens at places [batch, chosen] run a step, by flags of new ones [batch, tokens]."""
        if self.padding is not None and not self.position:
            tokens = runs.shape[1]
            runs = runs & (torch.arange(tokens, device=runs.device) < tokens - self.padding[:, None])
        self.runs[place] = runs.flatten().take(places)

    def refuse_padding(self, what: str) -> None:
        """Raise ValueError where rows are padded, which something does not go with."""
        if self.padding is not None:
            raise ValueError(f"{what}: expected rows without padding")

    def take_rows(self, rows: Tensor) -> None:
        """Go on with rows of the batch, by their numbers [batch]."""
        self.padding = None if self.padding is None else self.padding[rows]
        for each in self._kept():
            each.take_rows(rows)

    def all_held(self) -> list[Any]:
        """Return everything that is kept."""
        lists = (held if isinstance(held, list) else [held] for held in self._held.values())
        return [each for held in lists for each in held]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys, values and states, those of every row of the batch."""
        return sum(each.nbytes for each in self._kept() if isinstance(each, KVCache | State))

    def _kept(self) -> list[Any]:
        """Return what is kept of each row of the batch."""
        return [each for each in self.all_held() if hasattr(each, "take_rows")]


class SelectedKVCache(KVCache):
    """Those of the tokens that run a step, of each row its own.

    Attributes:
        counts: how many tokens of each row are kept, [batch].
    """

    def __init__(self, like: Tensor, size: int, key_dim: int | None = None) -> None:
        """Take what `KVCache` does."""
        super().__init__(like, size, key_dim=key_dim)
        self.counts = torch.zeros(len(like), dtype=torch.int64, device=like.device)

    def take_rows(self, rows: Tensor) -> None:
        """Go on with rows of the batch, by their numbers [batch]."""
        super().take_rows(rows)
        self.counts = self.counts[rows]

    def keep(self, key: Tensor, value: Tensor, runs: Tensor, first: bool) -> Kept | None:
        """Keep those of new tokens that run; of the first ones return None, of one more what it sees.

        runs: [batch, chosen], True for tokens that do, all of which come before those that do not.
        """
        if first:
            self.begin(key, value, self.counts)
            kept = None
        else:
            # a token that does not run is overwritten by the next one
            kept = self.add(key, value, self.counts)
        self.counts = self.counts + runs.sum(1)
        return kept
