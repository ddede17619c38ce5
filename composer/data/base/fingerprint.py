"""What data is, by its content: the size and hash of each file, wherever it is and whatever its name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

_SHOWN_DIGITS = 12
_SHOWN_FILES = 10


@dataclass(frozen=True)
class FileMark:
    """One file.

    Attributes:
        file: its name below the folder that the data stands in.
        size: in bytes, unpacked.
        sha256: of its unpacked content, in hexadecimal digits.
    """

    file: str
    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.size:,} bytes, sha256 {self.sha256[:_SHOWN_DIGITS]}"


@dataclass(frozen=True)
class Fingerprint:
    """The files of some data, in the order in which they are read."""

    files: tuple[FileMark, ...]

    @cached_property
    def digest(self) -> str:
        """A hash of all content in order; names do not matter."""
        return hashlib.sha256("".join(mark.sha256 for mark in self.files).encode()).hexdigest()

    def changes(self, now: Fingerprint) -> list[str]:
        """Say file by file in what `now` differs from this; empty where the content is the same."""
        if self.digest == now.digest:
            return []
        old, new = ({mark.file: mark for mark in each.files} for each in (self, now))
        if len(old) == len(new) == 1 and old.keys() != new.keys():
            (before,), (after,) = self.files, now.files
            return [f"{before.file}: {before} -> {after.file}: {after}"]
        names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
        changes = [f"{name}: {old.get(name, 'missing')} -> {new.get(name, 'missing')}" for name in names]
        changes = changes or ["the same files in another order"]
        more = len(changes) - _SHOWN_FILES
        return [*changes[:_SHOWN_FILES], *([f"and {more} more files"] if more > 0 else [])]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {"digest": self.digest, "files": [asdict(mark) for mark in self.files]}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Fingerprint:
        """Read what `to_dict` returned.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        marks = (FileMark(str(m["file"]), int(m["size"]), str(m["sha256"])) for m in stored["files"])
        return Fingerprint(tuple(marks))
