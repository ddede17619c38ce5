"""The tokens of one split, memory-mapped: windows of them are copied, and nothing else is held."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.data.base.errors import DataError
from composer.data.base.stream import IGNORED, Ints
from composer.data.tokens.manifest import Manifest, Shard
from composer.settings.errors import os_message


class MappedShard:
    """One shard: `tokens` [tokens], and `ends` and `scored_from` [documents], as places in `tokens`."""

    def __init__(self, manifest: Manifest, shard: Shard) -> None:
        """Map the files.

        Raises:
            DataError: they are missing or of another size than the manifest says.
        """
        self.examples, self.path = manifest.examples, os.path.join(manifest.folder, shard.name)
        dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self.tokens: NDArray[np.unsignedinteger] = _mapped(f"{self.path}.tokens", dtype, (shard.tokens,))
        documents = _mapped(f"{self.path}.documents", np.dtype("<i8"), (2, shard.documents))
        self.ends: Ints = documents[0]
        self.scored_from: Ints = documents[1]

    def rows(self, starts: Ints, size: int) -> Ints:
        """Copy `size` tokens from each of `starts` [n] -> [n, size]."""
        rows: Ints = self.tokens[starts[:, None] + np.arange(size)].astype(np.int64)
        return rows

    def scored(self, places: Ints) -> NDArray[np.bool_]:
        """Tell which of the tokens at `places`, of any shape, are scored."""
        if not self.examples:
            return np.ones(places.shape, bool)
        document = np.searchsorted(self.ends, places.ravel(), side="right").reshape(places.shape)
        scored: NDArray[np.bool_] = places >= self.scored_from[document]
        return scored

    def targets(self, tokens: Ints, places: Ints) -> Ints:
        """Return `tokens`, which are at `places`, with IGNORED for those that are not scored."""
        return np.where(self.scored(places), tokens, IGNORED) if self.examples else tokens


def open_split(manifest: Manifest, split: str) -> list[MappedShard]:
    """Map all shards of a split.

    Raises:
        DataError: there is no such split, or a file of it is missing or damaged.
    """
    return [MappedShard(manifest, shard) for shard in manifest.split(split).shards]


def _mapped(path: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    try:
        got = os.stat(path).st_size
        if got != size:
            raise DataError(f"{path}: expected {size:,} bytes, got {got:,}; build the data again")
        if size == 0:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, "r", shape=shape)
    except OSError as error:
        raise DataError(os_message(error, path)) from None
