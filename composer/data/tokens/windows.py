"""Which sequences a split is cut into: windows across documents, or each of one document alone.

Both number their sequences 0 .. count - 1 and make any of them at once, so that an order is a permutation
of numbers and nothing is read ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from composer.data.base.stream import IGNORED, Ints
from composer.data.tokens.shards import MappedShard

Documents = Literal["packed", "apart"]
_BLOCK = 1024


class Windows(Protocol):
    """The sequences of one split."""

    count: int
    """How many there are."""

    def rows(self, numbers: Ints, offset: int) -> tuple[Ints, Ints]:
        """Return tokens and targets [n, length] of the sequences `numbers` [n].

        `offset` is a random 64-bit number; where sequences could begin elsewhere too, it moves them all.
        """


class Packed:
    """Windows of `length` tokens side by side, whatever documents they cross; none crosses shards."""

    def __init__(self, shards: Sequence[MappedShard], length: int) -> None:
        self.shards, self.length = shards, length
        sizes = np.array([len(shard.tokens) for shard in shards], np.int64)
        # one window fewer than fit, so that all can be moved by up to a whole window
        self.counts = np.where(sizes > length, np.maximum(sizes // length - 1, 1), 0)
        self.slack = np.minimum(sizes - self.counts * length, length)
        self.first = np.concatenate([[0], np.cumsum(self.counts)])
        self.count = int(self.first[-1])

    def rows(self, numbers: Ints, offset: int) -> tuple[Ints, Ints]:
        """Return the windows `numbers`, all moved by the same part of a window."""
        tokens, targets = (np.empty((len(numbers), self.length), np.int64) for _ in range(2))
        which = np.searchsorted(self.first, numbers, side="right") - 1
        for i in np.unique(which):
            mine, shard = which == i, self.shards[i]
            starts = (numbers[mine] - self.first[i]) * self.length + offset % int(self.slack[i])
            rows = shard.rows(starts, self.length + 1)
            tokens[mine] = rows[:, :-1]
            places = starts[:, None] + np.arange(1, self.length + 1)
            targets[mine] = shard.targets(rows[:, 1:], places)
        return tokens, targets


class PackedOnce(Packed):
    """Windows from the start of each shard, as many as there are: each token is a target at most once."""

    def __init__(self, shards: Sequence[MappedShard], length: int) -> None:
        super().__init__(shards, length)
        self.counts = np.array([max(len(shard.tokens) - 1, 0) // length for shard in shards], np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.counts)])
        self.count = int(self.first[-1])
        self.slack = np.ones_like(self.counts)


class Apart:
    """Each sequence has tokens of one document: the document, or the next `length` tokens of a longer one.

    The rest is padding that is not scored. It comes after the document's tokens, so whatever is causal sees
    nothing of it, and nothing of a document can reach another.
    """

    def __init__(self, shards: Sequence[MappedShard], length: int, padding: int) -> None:
        self.shards, self.length, self.padding = shards, length, padding
        # pieces before each block of documents: the pieces within a block are counted when they are needed
        self.blocks = [_pieces_before(shard.ends, length) for shard in shards]
        self.first = np.concatenate([[0], np.cumsum([blocks[-1] for blocks in self.blocks], dtype=np.int64)])
        self.count = int(self.first[-1])

    def rows(self, numbers: Ints, offset: int) -> tuple[Ints, Ints]:
        """Return the pieces `numbers`; `offset` moves none of them."""
        tokens = np.full((len(numbers), self.length), self.padding, np.int64)
        targets = np.full((len(numbers), self.length), IGNORED, np.int64)
        which = np.searchsorted(self.first, numbers, side="right") - 1
        for row, (i, number) in enumerate(zip(which.tolist(), numbers.tolist(), strict=True)):
            shard = self.shards[i]
            start, end = self._piece(i, number - int(self.first[i]))
            document = shard.tokens[start:end].astype(np.int64)
            tokens[row, : min(len(document), self.length)] = document[: self.length]
            targets[row, : len(document) - 1] = shard.targets(document[1:], np.arange(start + 1, end))
        return tokens, targets

    def _piece(self, shard: int, number: int) -> tuple[int, int]:
        """Return the first token of a piece, and the end of it and its last target."""
        block = int(np.searchsorted(self.blocks[shard], number, side="right")) - 1
        low = block * _BLOCK
        begins, ends = _bounds(self.shards[shard].ends, low, low + _BLOCK)
        pieces = np.cumsum(_pieces(ends - begins, self.length))
        within = number - int(self.blocks[shard][block])
        document = int(np.searchsorted(pieces, within, side="right"))
        piece = within - (int(pieces[document - 1]) if document else 0)
        start = int(begins[document]) + piece * self.length
        return start, min(int(ends[document]), start + self.length + 1)


def _bounds(ends: Ints, low: int, high: int) -> tuple[Ints, Ints]:
    """Return where the documents low .. high - 1 begin and end."""
    edges = np.asarray(ends[max(low - 1, 0) : high])
    return (edges[:-1], edges[1:]) if low else (np.concatenate([[0], edges[:-1]]), edges)


def _pieces(sizes: Ints, length: int) -> Ints:
    """Return how many sequences documents of `sizes` tokens make; the first token is no target."""
    return (sizes - 2 + length) // length


def _pieces_before(ends: Ints, length: int) -> Ints:
    """Return how many pieces there are before each block of documents, and in all."""
    counts = [0]
    for low in range(0, len(ends), _BLOCK):
        begins, stops = _bounds(ends, low, low + _BLOCK)
        counts.append(int(_pieces(stops - begins, length).sum()))
    return np.cumsum(counts, dtype=np.int64)
