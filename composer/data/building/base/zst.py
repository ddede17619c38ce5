"""Reading .zst files: all frames, and whole ones only; the package ends at the first in silence."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO

_READ = 1 << 18


class Unpacked(io.RawIOBase):
    """The unpacked content of a file of one or more frames.

    Raises:
        EOFError: on reading, where the file ends within a frame.
    """

    def __init__(self, path: Path, zstandard: Any) -> None:
        self._file: BinaryIO = path.open("rb")
        self._frames = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._packed, self._ready = b"", memoryview(b"")

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; return how many bytes it got, 0 at the end."""
        target = memoryview(buffer).cast("B")
        while not self._ready and self._more():
            pass
        size = min(len(target), len(self._ready))
        target[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _more(self) -> bool:
        """Unpack some more; return whether there was any."""
        self._packed = self._packed or self._file.read(_READ)
        if not self._packed:
            if self._frame is not None:
                raise EOFError("the file ends within a frame")
            return False
        self._frame = self._frame or self._frames.decompressobj()
        self._ready, self._packed = memoryview(self._frame.decompress(self._packed)), b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()
