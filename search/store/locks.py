"""File locks, which the system releases when their holder dies."""

from __future__ import annotations

import fcntl
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_PAUSE = 0.1
"""The longest pause between two attempts, in seconds."""
_PATIENCE = 10.0
"""Seconds after which a process queues for a lock, or goes on without it."""


def nothing() -> None:
    """Do nothing while waiting."""


def take(file: IO[Any], meanwhile: Callable[[], None] = nothing, *, queue: bool = True) -> None:
    """Take the lock on a file that many processes want; closing the file releases it.

    A process at the head of the system's queue needs a core before it can take a lock, while the lock is free
    and all others wait behind it. Attempts after random pauses let any running process take it at once.

    Args:
        meanwhile: called after each attempt in vain.
        queue: whether to wait on; else the caller goes on without the lock.
    """
    began, pause = time.monotonic(), 0.001
    while time.monotonic() - began < _PATIENCE:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            meanwhile()
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _PAUSE)
    if queue:
        fcntl.flock(file, fcntl.LOCK_EX)


@contextmanager
def exclusive(path: Path, meanwhile: Callable[[], None] = nothing, *, queue: bool = True) -> Iterator[None]:
    """Hold the lock file at `path`, waiting for it; not reentrant.

    Args:
        meanwhile: called now and then while waiting.
        queue: see `take`.
    """
    with path.open("a") as file:
        take(file, meanwhile, queue=queue)
        yield


def is_free(path: Path) -> bool:
    """Whether the lock on `path` is free, or there is no such file."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
