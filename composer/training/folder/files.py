"""Files that are whole or not there: written aside, synced, then put in place."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ASIDE = ".tmp"
"""What the name of a file being written ends with."""


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for the new content of `path`, which appears under its name only once it is complete.

    A reader sees the old content or the new, never a part, whenever the process dies. The name aside is
    fixed, so what a killed writer left is overwritten by the next; callers see to there being one writer.

    Raises:
        OSError: the content cannot be written; the old one stands.
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
    """Write `text` as the whole content of `path`."""
    with replacing(path) as file:
        file.write(text.encode())


def link(source: Path, target: Path) -> None:
    """Put a file at `target` as well: as a hard link where the file system has them, else as a copy.

    A run replaces its files and never writes into them, so a link keeps the content it was made of.
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
    # the system drops the lock when its holder dies, however that happens
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
