"""Files of token ids, cut into documents at the token that ends them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.data.base.errors import DataError
from composer.data.building.base.source import Document, Options
from composer.settings.errors import os_message

_BLOCK = 1 << 22
_PIECE = 1 << 14
"""The size of a document where no token ends them."""


def mapped(path: str, dtype: np.dtype[Any] | type, offset: int = 0, count: int | None = None) -> NDArray[Any]:
    """Map the tokens of a file from a byte on.

    Raises:
        DataError: it cannot be read, or does not hold whole tokens.
    """
    item = np.dtype(dtype).itemsize
    try:
        size = os.path.getsize(path) - offset
        if (count is None and size % item) or size < 0 or (count or 0) * item > size:
            raise DataError(f"{path}: {size:,} bytes of tokens are not whole tokens of {np.dtype(dtype)}")
        shape = size // item if count is None else count
        return np.memmap(path, dtype, "r", offset, (shape,)) if shape else np.zeros(0, dtype)
    except OSError as error:
        raise DataError(os_message(error, path)) from None


def documents(tokens: NDArray[Any], options: Options) -> Iterator[Document]:
    """Yield the documents of `tokens`, each with the token that ends it; without one, equal pieces.

    Documents of nothing but their end are left out, as empty ones of text are.

    Raises:
        DataError: the token that ends documents does not fit the type of tokens.
    """
    if not options.end_of_document:
        for start in range(0, len(tokens), _PIECE):
            yield Document(tokens=tokens[start : start + _PIECE])
        return
    end, begin = int(options.end_of_document), 0
    if end > (most := np.iinfo(tokens.dtype).max):
        raise DataError(f"--end-of-document: expected a token of {tokens.dtype}, 0 .. {most}, got {end}")
    for low in range(0, len(tokens), _BLOCK):
        for place in (np.flatnonzero(tokens[low : low + _BLOCK] == end) + low + 1).tolist():
            if place - begin > 1:
                yield Document(tokens=tokens[begin:place])
            begin = place
    if begin < len(tokens):
        yield Document(tokens=np.append(tokens[begin:], np.asarray(end, tokens.dtype)))


def one_unit(path: Path, options: Options) -> Iterator[tuple[int, int, int]]:
    """Take the whole file at once: tokens need no work."""
    yield 0, -1, path.stat().st_size
