"""Atomic files: written under another name, synced, then renamed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ASIDE = ".tmp"
"""The suffix of a file being written."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for the new content of `path`, which appears under its name only once it is complete.

    A reader sees the old content or the new, never a part, whenever the process dies. The name aside is
    fixed, so the remains of a killed writer are overwritten by the next; callers ensure a single writer.

    Raises:
        OSError: the content cannot be written; the old file is unchanged.
    """
    aside = path.with_name(path.name + ASIDE)
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        # torch's writer reports a failed write as an error of its own
        if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically."""
    with replacing(path) as file:
        file.write(text.encode())


def link(source: Path, target: Path) -> None:
    """Link a file to `target`: as a hard link if the file system has them, else as a copy.

    A run replaces its files and never writes into them, so a link keeps its content.
    """
    aside = target.with_name(target.name + ASIDE)
    aside.unlink(missing_ok=True)
    try:
        os.link(source, aside)
    except OSError:
        shutil.copy2(source, aside)
    os.replace(aside, target)


@contextmanager
def locked(path: Path, busy: Callable[[str], Exception]) -> Iterator[None]:
    """Hold the lock file at `path`, which names its holder; raise `busy(its pid)` where another holds it.

    Raises:
        OSError: the file cannot be written.
    """
    # the system releases the lock when its holder dies
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise busy(file.read().strip() or "unknown") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
