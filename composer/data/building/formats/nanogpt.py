"""nanoGPT's `.bin`: uint16 token ids and nothing else; or llm.c's, with a header of 1,024 bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from composer.data.base.errors import DataError
from composer.data.building.base.files import head
from composer.data.building.base.source import Document, Format, Options, Unit
from composer.data.building.base.token_files import documents, mapped, one_unit

_MAGICS = {20240520: "<u2", 20240801: "<u4"}
_HEADER = 1024


def _header(start: bytes) -> tuple[int, int, int] | None:
    """Return magic, version and number of tokens, if the file has a header."""
    numbers = np.frombuffer(start[:12], "<i4") if len(start) >= 12 else [0]
    return (int(numbers[0]), int(numbers[1]), int(numbers[2])) if int(numbers[0]) in _MAGICS else None


def _documents(unit: Unit, options: Options) -> Iterator[Document]:
    header = _header(head(Path(unit.path)))
    if header is None:
        yield from documents(mapped(unit.path, np.dtype(options.dtype or "u2").newbyteorder("<")), options)
        return
    magic, version, count = header
    if version not in (1, 7):
        raise DataError(f"{unit.path}: expected version 1 or 7 of llm.c's tokens, got {version}")
    yield from documents(mapped(unit.path, np.dtype(_MAGICS[magic]), _HEADER, count), options)


FORMAT = Format(
    "nanogpt",
    lambda name, path, head: name.endswith(".bin") and not head.startswith(b"LITPKDS"),
    one_unit,
    _documents,
    tokens=True,
)
