"""The caches of generation: keys and values, recurrent states, tables of positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class VisibleKV(NamedTuple):
    """The keys and values [batch, kv_heads, n, head_dim] that a new token attends to, in any order.

    `mask` [batch, 1, 1, n] is True for those that exist in a row; None if all exist.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor | None = None


class KVCache:
    """The KV cache of one use of attention, allocated once: [batch, kv_heads, size, head_dim] each.

    If it is smaller than the sequence, it holds the first `sinks` and the latest `size - sinks` tokens, as a
    ring buffer.
    """

    def __init__(self, like: Tensor, size: int, sinks: int = 0, key_dim: int | None = None) -> None:
        """`like` are values [batch, tokens, kv_heads, head_dim]; keys have as many elements, or `key_dim`."""
        batch, _, kv_heads, head_dim = like.shape
        # zeros, since masked values must be finite
        self.keys = like.new_zeros(batch, kv_heads, size, head_dim if key_dim is None else key_dim)
        self.values = like.new_zeros(batch, kv_heads, size, head_dim)
        self.size, self.sinks = size, sinks

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return self.keys.nbytes + self.values.nbytes

    def take_rows(self, rows: Tensor) -> None:
        """Select rows of the batch by index [batch], as in beam search."""
        self.keys, self.values = self.keys[rows], self.values[rows]

    def reset(self) -> None:
        """Forget all tokens, in place."""
        self.keys.zero_()
        self.values.zero_()

    def begin(self, key: Tensor, value: Tensor, lengths: int | Tensor) -> None:
        """Cache the prompt [batch, tokens, kv_heads, head_dim], of each row the first `lengths` tokens."""
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

    def add(self, key: Tensor, value: Tensor, position: int | Tensor) -> VisibleKV:
        """Cache one token [batch, 1, kv_heads, head_dim] at a position, or one per row [batch].

        Returns the keys and values that it attends to, its own included.
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

    def seen(self, position: int | Tensor) -> VisibleKV:
        """Return the keys and values that the token at a position, which was added, attends to."""
        if isinstance(position, int):
            there = min(position + 1, self.size)
            return VisibleKV(self.keys[:, :, :there], self.values[:, :, :there])
        mask = torch.arange(self.size, device=self.keys.device) <= position[:, None]
        return VisibleKV(self.keys, self.values, mask[:, None, None])


class State:
    """A recurrent state of fixed size, updated by each new token."""

    def __init__(self, tensor: Tensor) -> None:
        """`tensor` is the state before the first token, zeros [batch, ...]."""
        self.tensor = tensor

    def put(self, tensor: Tensor) -> None:
        """Replace the state, in place if possible, since CUDA graphs read it at a fixed address."""
        if tensor.dtype == self.tensor.dtype and tensor.shape == self.tensor.shape:
            self.tensor.copy_(tensor)
        else:
            self.tensor = tensor

    def reset(self) -> None:
        """Return to the state before the first token, in place."""
        self.tensor.zero_()

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return self.tensor.nbytes

    def take_rows(self, rows: Tensor) -> None:
        """Select rows of the batch by index [batch], as in beam search."""
        self.tensor = self.tensor[rows]


class Past:
    """The caches of one generation, by the place of an operation and the index of its use there.

    Attributes:
        position: the position of the first new token.
        capacity: the largest number of tokens.
        padding: the number of padding tokens at the end of each row's prompt, [batch]; None for none. Later
            tokens overwrite them.
        at: the position of a token [batch] on the device, for steps in CUDA graphs.
        runs: the flags [batch, selected] of the tokens that run a step, by the place of the selection.
    """

    def __init__(
        self,
        capacity: int,
        padding: Tensor | None = None,
        use_of: Callable[[str, int], int] = lambda _, use: use,
    ) -> None:
        """`use_of` maps a place and a use to the use whose cache it shares."""
        self.position, self.capacity, self.padding = 0, capacity, padding
        self.at: Tensor | None = None
        self.runs: dict[str, Tensor] = {}
        self._use_of = use_of
        self._held: dict[tuple[str, int], Any] = {}

    @property
    def positions(self) -> int | Tensor:
        """The position of the first new token; per row [batch] with padding or `at`."""
        if self.at is not None:
            return self.at
        return self.position if self.padding is None or not self.position else self.position - self.padding

    def held(self, place: str, use: int, make: Callable[[], T]) -> T:
        """Return the cache of a place and use, created by `make` at the first call."""
        key = place, self._use_of(place, use)
        state: T | None = self._held.get(key)
        if state is None:
            state = self._held[key] = make()
        return state

    def keep(self, kept: KVCache, key: Tensor, value: Tensor) -> VisibleKV | None:
        """Cache the prompt and return None, or one more token and return what it attends to."""
        if self.position:
            return kept.add(key, value, self.positions)
        tokens = key.shape[1]
        kept.begin(key, value, tokens if self.padding is None else tokens - self.padding)
        return None

    def chosen(self, place: str, runs: Tensor, places: Tensor) -> None:
        """Record which selected tokens run a step.

        Args:
            place: the place of the selection.
            runs: flags of the new tokens, [batch, tokens].
            places: indices of the selected tokens in the flattened batch, [batch, selected].
        """
        padded = self.padded(runs)
        self.runs[place] = (runs if padded is None else runs & ~padded).flatten().take(places)

    def padded(self, x: Tensor) -> Tensor | None:
        """Return flags [batch, tokens] of the new tokens x that are padding; None if there are none."""
        if self.padding is None or self.position:
            return None
        tokens = x.shape[1]
        return torch.arange(tokens, device=x.device) >= tokens - self.padding[:, None]

    def latest(self, x: Tensor, count: int) -> Tensor:
        """Return the last `count` tokens of x [batch, tokens, ...] before the padding of each row."""
        first = x.shape[1] - count
        if self.padding is None or self.position:
            return x[:, first:]
        places = first - self.padding[:, None] + torch.arange(count, device=x.device)
        return x[torch.arange(len(x), device=x.device)[:, None], places]

    def take_rows(self, rows: Tensor) -> None:
        """Select rows of the batch by index [batch], as in beam search."""
        self.padding = None if self.padding is None else self.padding[rows]
        for each in self._kept():
            each.take_rows(rows)

    def reset(self) -> None:
        """Forget all tokens; tensors stay where they are, for CUDA graphs that read them."""
        self.position, self.padding, self.at, self.runs = 0, None, None, {}
        for each in self._kept():
            each.reset()

    def all_held(self) -> list[Any]:
        """Return all caches."""
        lists = (held if isinstance(held, list) else [held] for held in self._held.values())
        return [each for held in lists for each in held]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys, values and states."""
        return sum(each.nbytes for each in self._kept() if isinstance(each, KVCache | State))

    def _kept(self) -> list[Any]:
        """Return the caches with a batch dimension."""
        return [each for each in self.all_held() if hasattr(each, "take_rows")]


class SelectedKVCache(KVCache):
    """The KV cache of a step on selected tokens, which differ between rows.

    Attributes:
        counts: the number of cached tokens of each row, [batch].
    """

    def __init__(self, like: Tensor, size: int, key_dim: int | None = None) -> None:
        """See `KVCache`."""
        super().__init__(like, size, key_dim=key_dim)
        self.counts = torch.zeros(len(like), dtype=torch.int64, device=like.device)

    def take_rows(self, rows: Tensor) -> None:
        """Select rows of the batch by index [batch], as in beam search."""
        super().take_rows(rows)
        self.counts = self.counts[rows]

    def keep(self, key: Tensor, value: Tensor, runs: Tensor, first: bool) -> VisibleKV | None:
        """Cache the new tokens that run; return None for the prompt, else what the token attends to.

        runs: [batch, selected], True for tokens that run; these come first.
        """
        if first:
            self.begin(key, value, self.counts)
            kept = None
        else:
            # the next token overwrites one that does not run
            kept = self.add(key, value, self.counts)
        self.counts = self.counts + runs.sum(1)
        return kept
