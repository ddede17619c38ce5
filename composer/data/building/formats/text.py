"""Plain text: a document is a file, a paragraph or a line; a large file is cut into pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from composer.data.building.base.files import COMPRESSED, cuts, decoded, lines, opened
from composer.data.building.base.source import Document, Format, Options, Unit

_WHOLE = 1 << 20
"""A file of more bytes than this is not one document but pieces of about the size below."""
_PIECE = 1 << 14


def _units(path: Path, options: Options) -> Iterator[tuple[int, int, int]]:
    if options.documents == "file":
        return cuts(path, whole_lines=False)
    return cuts(path, blank=options.documents == "paragraph")


def _documents(unit: Unit, options: Options) -> Iterator[Document]:
    path = Path(unit.path)
    with opened(path) as file:
        if unit.start:  # only plain files are divided, and not all others can seek
            file.seek(unit.start)
        file_lines = lines(file, unit.start, unit.end, whole=options.documents != "file")
        if options.documents == "file":
            # of a compressed file only reading it tells the size
            large = path.suffix not in COMPRESSED and (unit.start > 0 or unit.size > _WHOLE)
            contents = _pieces(file_lines) if large else _whole_or_pieces(file_lines)
        elif options.documents == "line":
            contents = (line.rstrip(b"\r\n") for line in file_lines)
        else:
            contents = _paragraphs(file_lines)
        for content in contents:
            yield Document(decoded(content, unit.path))


def _paragraphs(file_lines: Iterable[bytes]) -> Iterator[bytes]:
    kept: list[bytes] = []
    for line in file_lines:
        if line.strip():
            kept.append(line)
        elif kept:
            yield b"".join(kept)
            kept = []
    if kept:
        yield b"".join(kept)


def _whole_or_pieces(file_lines: Iterator[bytes]) -> Iterator[bytes]:
    kept: list[bytes] = []
    size = 0
    for line in file_lines:
        kept.append(line)
        size += len(line)
        if size > _WHOLE:
            yield from _pieces(chain(kept, file_lines))
            return
    yield b"".join(kept)


def _pieces(file_lines: Iterable[bytes]) -> Iterator[bytes]:
    piece: list[bytes] = []
    size = 0
    for line in file_lines:
        piece.append(line)
        size += len(line)
        if size >= _PIECE:
            yield b"".join(piece)
            piece, size = [], 0
    if piece:
        yield b"".join(piece)


# whatever nothing else is
FORMAT = Format("text", lambda name, path, head: True, _units, _documents, general=2)
