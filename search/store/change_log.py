"""Which records changed, so that a worker need not look at all of them again and again.

Every write of a record is noted twice, before and after it, under the lock of the store. A reader that comes
between the two reads the old record, and again at the second note. A writer that died between them left one
note alone: whoever has the lock next adds the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_AFTER = " ."


class ChangeLog:
    """The file of notes, as one reader and writer of it."""

    def __init__(self, path: Path) -> None:
        self._path, self._name = path, str(path)
        self._read = 0
        path.touch()

    def skip(self) -> None:
        """Take all notes so far as read; call before all records are read."""
        self._read = self._path.stat().st_size

    def changed(self) -> list[str]:
        """Return the keys of the records noted since the last call."""
        # opened each time, since a network file system may answer a bare stat from its cache
        with open(self._name, "rb") as file:
            if os.fstat(file.fileno()).st_size == self._read:
                return []
            file.seek(self._read)
            new = file.read()
        # the rest of a line that is being written comes next time
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        lines = whole.decode(errors="replace").splitlines()
        return list(dict.fromkeys(line.removesuffix(_AFTER) for line in lines))

    def repair(self) -> None:
        """Add the note that a dead writer left out; call under the lock of the store."""
        with self._path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 1024))
            end = file.read().decode(errors="replace")
        if not end or end.endswith(f"{_AFTER}\n"):
            return
        # a torn line may be the second note, so the line before it may lack one too
        lacking = [line for line in end.splitlines()[-2:] if not line.endswith(_AFTER)]
        lines = [f"{line}{_AFTER}" for line in lacking]
        self._append("\n".join(lines if end.endswith("\n") else ["", *lines]))

    @contextmanager
    def noting(self, key: str) -> Iterator[None]:
        """Note a write of a record, before and after it; call under the lock of the store."""
        self._append(key)
        yield
        self._append(f"{key}{_AFTER}")

    def _append(self, line: str) -> None:
        with self._path.open("ab") as file:
            file.write(f"{line}\n".encode())
