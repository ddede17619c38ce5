"""Writing shards: documents go in one by one, and a shard ends at the document that fills it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from composer.data.base.stream import Ints
from composer.data.tokens.manifest import Shard, SplitData

SHARD_TOKENS = 1 << 28
_BLOCK = 1 << 22


class SplitWriter:
    """Writes the shards of one split; they count only once a manifest names them."""

    def __init__(self, folder: Path, split: str, dtype: str, shard_tokens: int = SHARD_TOKENS) -> None:
        self.folder, self.split, self.shard_tokens = folder, split, shard_tokens
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.shards: list[Shard] = []
        self.scored_tokens = 0
        self.scored_bytes: int | None = 0
        self._file: IO[bytes] | None = None
        self._start_shard()

    def _start_shard(self) -> None:
        self._hash, self._tokens = hashlib.sha256(), 0
        self._ends: list[Ints] = []
        self._scored: list[Ints] = []

    def add(self, tokens: NDArray[Any], ends: Ints, scored_from: Ints, scored_bytes: int | None) -> None:
        """Add documents: their `tokens` in a row, and for each [documents] its end and where scoring begins.

        All places count from the first of `tokens`. `scored_bytes` is what the scored tokens stand for, in
        all; None if unknown.
        """
        begins = np.concatenate([[0], ends[:-1]])
        self.scored_tokens += int((ends - scored_from).sum())
        known = self.scored_bytes is not None and scored_bytes is not None
        self.scored_bytes = self.scored_bytes + scored_bytes if known else None  # type: ignore[operator]
        first = 0
        while first < len(ends):
            room = self.shard_tokens - self._tokens
            stop = int(np.searchsorted(ends, begins[first] + room, side="right"))
            stop = stop if stop > first or self._tokens else first + 1
            if stop > first:
                low, high = int(begins[first]), int(ends[stop - 1])
                self._write(tokens[low:high])
                moved = self._tokens - low
                self._ends.append(ends[first:stop] + moved)
                self._scored.append(scored_from[first:stop] + moved)
                self._tokens += high - low
            first = stop
            if first < len(ends):
                self._end_shard()

    def _write(self, tokens: NDArray[Any]) -> None:
        if self._file is None:
            self._file = (self.folder / f"{self._name}.tokens").open("wb")
        for low in range(0, len(tokens), _BLOCK):
            content = np.ascontiguousarray(tokens[low : low + _BLOCK], self.dtype).data.cast("B")
            self._hash.update(content)
            self._file.write(content)

    @property
    def _name(self) -> str:
        return f"{self.split}-{len(self.shards):05}"

    def _end_shard(self) -> None:
        if self._file is None:
            return
        _close(self._file)
        self._file = None
        documents = np.stack([np.concatenate(self._ends), np.concatenate(self._scored)]).astype("<i8")
        with (self.folder / f"{self._name}.documents").open("wb") as file:
            file.write(documents.data.cast("B"))
            _sync(file)
        self._hash.update(documents.data.cast("B"))
        self.shards.append(Shard(self._name, self._tokens, documents.shape[1], self._hash.hexdigest()))
        self._start_shard()

    def finish(self) -> SplitData:
        """Close the last shard and return what was written."""
        self._end_shard()
        return SplitData(tuple(self.shards), self.scored_tokens, self.scored_bytes)

    def close(self) -> None:
        """Close the open file, if any, without finishing."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def writing(folder: Path, split: str, dtype: str, shard_tokens: int = SHARD_TOKENS) -> Iterator[SplitWriter]:
    """Give a writer whose file is closed at the end, whatever happens."""
    writer = SplitWriter(folder, split, dtype, shard_tokens)
    try:
        yield writer
    finally:
        writer.close()


def _close(file: IO[bytes]) -> None:
    _sync(file)
    file.close()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
