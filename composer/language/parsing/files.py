"""Reads spec files with bounded work, also where a path is no ordinary file."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

LONGEST = 4_000_000
"""Bytes of a file that are read at most: a spec has fewer characters, of four bytes at most."""
_WAIT = 2.0


class NoFile(Exception):
    """A path that cannot be read as a file; the message says what it is instead."""


def read_bytes(path: str, *, ordinary: bool) -> bytes:
    """Return the first `LONGEST` bytes of a file and one more where it has more.

    With `ordinary`, pipes and devices are refused.

    Raises:
        OSError: the file cannot be read.
        NoFile: it is no ordinary file, or a pipe that nobody writes to.
    """
    mode = os.stat(path).st_mode
    if (stat.S_ISREG(mode) and os.stat(path).st_size <= LONGEST) or stat.S_ISDIR(mode):
        return Path(path).read_bytes()
    if ordinary and not stat.S_ISREG(mode):
        raise NoFile("a pipe" if stat.S_ISFIFO(mode) else "a device")
    if stat.S_ISSOCK(mode):
        raise NoFile("a socket")
    # a pipe is opened without waiting for a writer
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        start = _first(descriptor) if stat.S_ISFIFO(mode) else b""
        os.set_blocking(descriptor, True)
        with open(descriptor, "rb", closefd=False) as file:
            return start + file.read(LONGEST + 1 - len(start))
    finally:
        os.close(descriptor)


def _first(descriptor: int) -> bytes:
    """Return what a pipe holds already, nothing where its writer has not written yet."""
    until = time.monotonic() + _WAIT
    while True:
        try:
            content = os.read(descriptor, LONGEST)
        except BlockingIOError:
            return b""
        if content:
            return content
        if time.monotonic() > until:
            raise NoFile("a pipe that nobody writes to")
        time.sleep(0.02)
