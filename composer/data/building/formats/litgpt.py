"""litgpt's data: chunks of litdata's `optimize`, which `index.json` lists, or older packed `.bin` files.

A chunk is the number of its items and their places, as uint32, then their tokens; an item is a document.
Where litdata's `PyTreeLoader` wrote them (its default, which litgpt's OpenWebText takes), an item begins with
its size, as uint32.

A packed file has a header of 24 bytes: LITPKDS, a version (uint64), a code of the type, the chunk's size. A
document that does not fit goes on in the next file, `NAME_0000000001.bin` after `NAME_0000000000.bin`; the
rest of the last file is filled with the token that ends documents.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer.data.base.errors import DataError
from composer.data.building.base.source import Document, Format, Options, Unit
from composer.data.building.base.token_files import documents, mapped

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
        found: dict[str, Any] = json.loads(path.read_bytes())
        config = found["config"]
        kinds, squeezed = config["data_format"], config["compression"] or config.get("encryption")
        kind, _, number = kinds[0].partition(":")
        if len(kinds) == 1 and not squeezed and int(number or -1) in _TYPES.get(kind, {}):
            chunks = found["chunks"]
            # older indexes do not name the loader; only TokensLoader counts tokens
            loader = config.get("item_loader") or ("TokensLoader" if chunks[0]["dim"] else "PyTreeLoader")
            skipped = {"TokensLoader": 0, "PyTreeLoader": 4}[loader]
            return {"dtype": "<" + _TYPES[kind][int(number)], "chunks": chunks, "skipped": skipped}
        reason = f"items of {kinds}" + (f", compressed by {squeezed}" if squeezed else "")
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
    count = int(mapped(name, np.dtype("<u4"), 0, 1)[0])
    places = mapped(name, np.dtype("<u4"), 4, count + 1).astype(np.int64)
    for place, end in zip(places[:-1].tolist(), places[1:].tolist(), strict=True):
        start = place + index["skipped"]
        if end < start or (end - start) % item:
            raise DataError(f"{name}: damaged: an item from byte {place} to {end}")
        tokens = mapped(name, np.dtype(index["dtype"]), start, (end - start) // item)
        yield from documents(tokens, options) if options.end_of_document else [Document(tokens=tokens)]


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
    found = re.fullmatch(r"(.*_)(\d{10})(\.bin)", path, re.DOTALL)
    if found is None or int(found[2]) + by < 0:
        return None
    other = f"{found[1]}{int(found[2]) + by:010d}{found[3]}"
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
