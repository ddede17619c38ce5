"""litgpt's data: chunks of litdata's `optimize`, which `index.json` lists, or older packed `.bin` files.

A chunk is the number of its items and their places, as uint32, then their tokens; an item is a document.
Where litdata's `PyTreeLoader` wrote them (its default, which litgpt's OpenWebText takes), an item begins with
its size, as uint32. A chunk may be compressed by zstd as a whole.

A packed file has a header of 24 bytes: LITPKDS, a version (uint64), a code of the type, the chunk's size. A
document that does not fit goes on in the next file, `NAME_0000000001.bin` after `NAME_0000000000.bin`; the
rest of the last file is filled with the token that ends documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.data.base.errors import DataError
from composer.data.building.base.extras import needed
from composer.data.building.base.source import Document, Format, Options, Unit
from composer.data.building.base.token_files import documents, mapped
from composer.data.building.base.zst import Unpacked
from composer.settings.errors import os_message

INDEX = "index.json"
_PACKED = b"LITPKDS"
_PACKED_HEADER = 24
_PACKED_TYPES = {1: "u1", 2: "i1", 3: "i2", 4: "i4", 5: "i8", 8: "u2"}
# the numbers that litdata writes for types, in its order of torch's and of numpy's
_TYPES = {
    "no_header_tensor": {
        11: "u1",
        12: "i1",
        13: "i2",
        14: "i2",
        15: "i4",
        16: "i4",
        17: "i8",
        18: "i8",
        20: "u2",
    },
    "no_header_numpy": {0: "i1", 1: "i2", 2: "i4", 3: "i8", 4: "u1", 5: "u2", 6: "u4", 7: "u8"},
}


def _index(path: Path) -> dict[str, Any]:
    """Read the index of a folder of chunks.

    Raises:
        DataError: it is damaged, or the items are not plain tokens.
    """
    try:
        index: dict[str, Any] = json.loads(path.read_bytes())
        config = index["config"]
        kinds, packed = config["data_format"], str(config["compression"] or "")
        # "batch" and "sample" compress some items of a chunk at a time
        level = config.get("compression_level") or "chunk"
        whole = level == "chunk" and packed.partition(":")[0] in ("", "zstd")
        plain = whole and not config.get("encryption")
        kind, _, number = kinds[0].partition(":")
        if len(kinds) == 1 and plain and int(number or -1) in _TYPES.get(kind, {}):
            chunks = index["chunks"]
            # older indexes do not name the loader; only TokensLoader counts tokens
            loader = config.get("item_loader") or ("TokensLoader" if chunks[0]["dim"] else "PyTreeLoader")
            skipped = {"TokensLoader": 0, "PyTreeLoader": 4}[loader]
            dtype = "<" + _TYPES[kind][int(number)]
            return {"dtype": dtype, "chunks": chunks, "skipped": skipped, "compressed": bool(packed)}
        reason = f"items of {kinds}" + (f", compressed by {packed}, each {level}" if not whole else "")
        reason += ", encrypted" if config.get("encryption") else ""
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(f"{path}: not a whole index of litdata: {type(error).__name__}: {error}") from None
    raise DataError(f"{path}: expected plain tokens, as litgpt's pretraining data are, got {reason}")


def _units(path: Path, options: Options) -> Iterator[tuple[int, int, int]]:
    if path.name != INDEX:
        yield 0, -1, path.stat().st_size
        return
    for i, chunk in enumerate(_index(path)["chunks"]):
        yield i, i + 1, int(chunk["chunk_bytes"])


def _documents(unit: Unit, options: Options) -> Iterator[Document]:
    path = Path(unit.path)
    if path.name != INDEX:
        yield from _packed(unit.path, options)
        return
    index = _index(path)
    name = str(path.parent / index["chunks"][unit.start]["filename"])
    item = np.dtype(index["dtype"]).itemsize
    read = _unpacked(name) if index["compressed"] else partial(mapped, name)
    count = int(read(np.dtype("<u4"), 0, 1)[0])
    places = read(np.dtype("<u4"), 4, count + 1).astype(np.int64)
    for place, end in zip(places[:-1].tolist(), places[1:].tolist(), strict=True):
        start = place + index["skipped"]
        if end < start or (end - start) % item:
            raise DataError(f"{name}: damaged: an item from byte {place} to {end}")
        tokens = read(np.dtype(index["dtype"]), start, (end - start) // item)
        yield from documents(tokens, options) if options.end_of_document else [Document(tokens=tokens)]


def _unpacked(path: str) -> Callable[[np.dtype[Any], int, int], NDArray[Any]]:
    """Unpack a chunk; return what reads its numbers: their type, the first byte and how many.

    Raises:
        DataError: the chunk cannot be read or is damaged, or zstandard is not installed.
    """
    zstandard = needed("zstandard", f"{path}: reading compressed chunks")
    try:
        with BufferedReader(Unpacked(Path(path), zstandard), 1 << 20) as file:
            content = file.read()
    except (zstandard.ZstdError, EOFError) as error:
        raise DataError(f"{path}: not a whole chunk compressed by zstd: {error}") from None
    except OSError as error:
        raise DataError(os_message(error, path)) from None

    def read(dtype: np.dtype[Any], start: int, count: int) -> NDArray[Any]:
        if start + count * dtype.itemsize > len(content):
            raise DataError(f"{path}: damaged: expected more than the {len(content):,} bytes unpacked")
        return np.frombuffer(content, dtype, count, start)

    return read


def _packed(path: str, options: Options) -> Iterator[Document]:
    tokens = _packed_tokens(path)
    if not options.end_of_document:
        yield from documents(tokens, options)
        return
    end = int(options.end_of_document)
    if (before := _neighbour(path, -1)) and _packed_tokens(before)[-1:].tolist() != [end]:
        # what this file begins with belongs to a document of the one before
        ends = np.flatnonzero(tokens == end)
        tokens = tokens[ends[0] + 1 :] if len(ends) else tokens[:0]
    last = np.flatnonzero(tokens == end)[-1:]
    whole = int(last[0]) + 1 if len(last) else 0
    yield from documents(tokens[:whole], options)
    if whole < len(tokens):
        yield from documents(np.concatenate([tokens[whole:], *_continued(path, end)]), options)


def _continued(path: str, end: int) -> Iterator[NDArray[Any]]:
    """Yield how the last document of a packed file goes on in those after it."""
    following = _neighbour(path, 1)
    while following:
        tokens = _packed_tokens(following)
        ends = np.flatnonzero(tokens == end)
        yield tokens[: ends[0] + 1] if len(ends) else tokens
        following = None if len(ends) else _neighbour(following, 1)


def _neighbour(path: str, by: int) -> str | None:
    """Return the packed file before or after one, if it is there."""
    match = re.fullmatch(r"(.*_)(\d{10})(\.bin)", path, re.DOTALL)
    if match is None or int(match[2]) + by < 0:
        return None
    other = f"{match[1]}{int(match[2]) + by:010d}{match[3]}"
    return other if Path(other).is_file() else None


def _packed_tokens(path: str) -> NDArray[Any]:
    head = mapped(path, np.dtype("u1"), 0, _PACKED_HEADER).tobytes()
    code = head[15]
    if not head.startswith(_PACKED) or code not in _PACKED_TYPES:
        raise DataError(f"{path}: not a packed file of litgpt: it begins {head[:16]!r}")
    count = int.from_bytes(head[16:], "little")
    return mapped(path, np.dtype("<" + _PACKED_TYPES[code]), _PACKED_HEADER, count)


def _recognises(name: str, path: Path, head: bytes) -> bool:
    if name == INDEX:
        # an index names its chunks; any other file of that name is JSON
        return b'"chunks"' in path.read_bytes()[:64]
    return head.startswith(_PACKED)


FORMAT = Format("litgpt", _recognises, _units, _documents, tokens=True)
