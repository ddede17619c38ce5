"""Opening files, compressed or not, and cutting them into lines."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from composer.data.base.errors import DataError
from composer.data.building.base.extras import needed
from composer.data.building.base.source import UNIT_BYTES
from composer.data.building.base.zst import Unpacked
from composer.settings.errors import os_message

COMPRESSED = (".gz", ".zst")
_LONGEST_LINE = 1 << 16
_READ = 1 << 20


def plain_name(path: Path) -> str:
    """Return the name of a file without the suffix of its compression."""
    return path.name[: -len(path.suffix)] if path.suffix in COMPRESSED else path.name


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open the unpacked content of a file.

    Raises:
        DataError: it cannot be read, or is not what its suffix says.
    """
    failures: tuple[type[Exception], ...] = (gzip.BadGzipFile, EOFError, zlib.error)
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                yield cast("IO[bytes]", file)
        elif path.suffix == ".zst":
            zstandard = needed("zstandard", f"{path}: reading .zst files")
            failures = (*failures, zstandard.ZstdError)
            with io.BufferedReader(Unpacked(path, zstandard), 1 << 20) as file:
                yield file
        else:
            with path.open("rb") as file:
                yield file
    except failures as error:
        raise DataError(f"{path}: named {path.suffix}, but not a whole file of that kind: {error}") from error
    except OSError as error:
        raise DataError(os_message(error, path)) from error


def head(path: Path, size: int = 64) -> bytes:
    """Return the first unpacked bytes of a file."""
    with opened(path) as file:
        return file.read(size)


def cuts(path: Path, blank: bool = False, whole_lines: bool = True) -> Iterator[tuple[int, int, int]]:
    """Divide a file at ends of lines, or with `blank` after blank lines; a compressed file is not divided.

    Without `whole_lines`, a very long line is cut, too.
    """
    size = path.stat().st_size
    if path.suffix in COMPRESSED:
        yield 0, -1, size
        return
    start = 0
    with opened(path) as file:
        while size - start > UNIT_BYTES:
            file.seek(start + UNIT_BYTES)
            for line in lines(file, whole=whole_lines):
                if not blank or not line.strip():
                    break
            end = min(file.tell(), size)
            yield start, end, end - start
            start = end
    if start < size:
        yield start, size, size - start


def lines(file: IO[bytes], start: int = 0, end: int = -1, whole: bool = True) -> Iterator[bytes]:
    """Yield lines from where the file stands, which is `start`, up to the place `end`.

    Unless `whole`, lines longer than 64 KiB are cut between characters.
    """
    place = start
    while end < 0 or place < end:
        most = _LONGEST_LINE if end < 0 else min(_LONGEST_LINE, end - place)
        line = file.readline() if whole else file.readline(most)
        if not line:
            return
        if not whole and not line.endswith(b"\n"):
            line = _with_whole_character(file, line)
        place += len(line)
        yield line


def _with_whole_character(file: IO[bytes], line: bytes) -> bytes:
    """Add what is missing of the last character of `line`; its first byte says how long it is."""
    for back in range(1, min(4, len(line)) + 1):
        first = line[-back]
        if first >= 0xC0:
            size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
            return line + file.read(max(size - back, 0))
        if first < 0x80:
            break
    return line


def line_at(path: str, place: int) -> str:
    """Say where a byte of the unpacked content is, by its line and its own number."""
    number, left = 1, place
    with opened(Path(path)) as file:
        while left and (content := file.read(min(left, _READ))):
            number += content.count(b"\n")
            left -= len(content)
    return f"line {number:,}, byte {place:,}"


def decoded(content: bytes, path: str) -> str:
    """Decode UTF-8 of a file.

    Raises:
        DataError: it is none; says where the first such byte of the file is.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise not_utf8(path, content[error.start]) from None


def not_utf8(path: str, byte: int) -> DataError:
    """Make the error of a file that is not UTF-8, with the place of its first byte that is not."""
    decoder, place = codecs.getincrementaldecoder("utf-8")(), 0
    with opened(Path(path)) as file:
        content = b" "
        while content:
            content, kept = file.read(_READ), len(decoder.getstate()[0])
            try:
                decoder.decode(content, final=not content)
            except UnicodeDecodeError as error:
                place, byte = place - kept + error.start, error.object[error.start]
                break
            place += len(content)
    return DataError(
        f"{path}, {line_at(path, place)}: not UTF-8: {byte:#04x}; convert the file, or leave it out"
    )
