"""Reading text as bytes: a file, a folder of files, gzip, one field of JSON lines.

Documents (files of a folder, or JSON lines) are joined by the byte 0xFF, which UTF-8 never uses: splitting
there and decoding gives the documents back. Empty documents are left out.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from composer.data.base.errors import DataError
from composer.data.base.fingerprint import FileMark, Fingerprint
from composer.settings.errors import os_message

SEPARATOR = b"\xff"


class Source(NamedTuple):
    """One file, in the state it was found."""

    path: str
    size: int
    modified_ns: int


def find_sources(path: str, glob: str | None) -> tuple[Source, ...]:
    """List the file at `path`, or the files of the folder there that match `glob`, sorted by name.

    Hidden files and folders are left out, and so is everything below them.

    Raises:
        DataError: nothing is there, it cannot be read, or nothing matches.
    """
    if not path:
        raise DataError("expected the name of a file or folder, got ''")
    root = Path(path)
    try:
        if root.is_dir():
            return _folder_sources(root, glob or "**/*")
        if not root.exists():
            raise DataError(f"file not found: {path} (relative to {Path.cwd()})")
        if glob is not None:
            raise DataError(
                f"{path}: is a file, but `glob` ({glob!r}) chooses files of a folder; leave it out"
            )
        if not root.is_file():
            raise DataError(f"{path}: expected a file or folder, got a pipe, device or socket")
        return (_source(root),)
    except OSError as error:
        raise DataError(os_message(error, error.filename or path)) from error


def _folder_sources(root: Path, glob: str) -> tuple[Source, ...]:
    next(root.iterdir(), None)  # a folder that may not be listed would else look like an empty one
    try:
        files = [file.relative_to(root) for file in root.glob(glob) if file.is_file()]
    except (ValueError, NotImplementedError) as error:
        raise DataError(f"{root}: `glob` is not a pattern below the folder: {glob!r} ({error})") from error
    visible = sorted(
        {file.as_posix() for file in files if not any(part.startswith(".") for part in file.parts)}
    )
    if not visible:
        raise DataError(f"{root}: no file in the folder matches {glob!r} (hidden files are left out)")
    return tuple(_source(root / name) for name in visible)


def _source(path: Path) -> Source:
    state = path.stat()
    return Source(str(path), state.st_size, state.st_mtime_ns)


def fingerprint(path: str, sources: tuple[Source, ...]) -> Fingerprint:
    """Return what the `sources` found at `path` hold; a file is not read again in the state it was read in.

    Raises:
        DataError: a file cannot be read.
    """
    for source in sources:
        if source not in _hashes:
            _content(source)
    root = Path(path)
    names = [Path(source.path).relative_to(root).as_posix() for source in sources]
    return Fingerprint(
        tuple(
            FileMark(root.name if name == "." else name, *_hashes[source])
            for name, source in zip(names, sources, strict=True)
        )
    )


_hashes: dict[Source, tuple[int, str]] = {}
"""Size and sha256 of the content of each file that was read, by the state it was found in."""


@lru_cache(maxsize=1)
def read_text(sources: tuple[Source, ...], field: str | None) -> bytes:
    """Read the documents of `sources`, joined by SEPARATOR; with `field`, each line's value of that key.

    The last text read is kept, so that the splits of one data set, or the trials of a search, share it.

    Raises:
        DataError: a file cannot be read, is not UTF-8, or is not JSON lines with `field`; or all is empty.
    """
    documents = (document for source in sources for document in _documents(source, field))
    text = SEPARATOR.join(document for document in documents if document)
    if not text:
        raise DataError(
            f"{sources[0].path}{' and all others' * (len(sources) > 1)}: no text, only empty files"
        )
    return text


def _documents(source: Source, field: str | None) -> Iterator[bytes]:
    content, path = _content(source), source.path
    try:
        content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8: byte {content[error.start]:#04x} at offset {error.start}; "
            "convert the file, or choose others by `glob`"
        ) from error
    if field is None:
        yield content
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield _field(line, field, f"{path}:{number}")


def _content(source: Source) -> bytes:
    """Return the unpacked content of a file, and note its hash unless it is known."""
    path = source.path
    try:
        content = Path(path).read_bytes()
        content = gzip.decompress(content) if path.endswith(".gz") else content
        if source not in _hashes:
            _hashes[source] = len(content), hashlib.sha256(content).hexdigest()
        return content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: named .gz, but not a whole gzip file: {error}") from error
    except OSError as error:
        raise DataError(os_message(error, path)) from error


def _field(line: bytes, field: str, place: str) -> bytes:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not a line of JSON: {error}") from error
    if not isinstance(entry, dict) or field not in entry:
        got = (
            f"an object with {', '.join(entry) or 'no keys'}"
            if isinstance(entry, dict)
            else type(entry).__name__
        )
        raise DataError(f"{place}: expected an object with the field {field!r}, got {got}")
    value = entry[field]
    if not isinstance(value, str):
        raise DataError(f"{place}: expected a string in the field {field!r}, got {type(value).__name__}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: the field {field!r} is no Unicode text: {error.reason}") from error
