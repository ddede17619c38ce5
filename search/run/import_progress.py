"""How far an import is: a status where there is a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.markup import escape

Arriving: TypeAlias = Callable[[Path, int, int], None]
"""Told, before each run of another search is looked at: its folder, how many were before, and of how many."""

_PAUSE = 5.0
"""Seconds between two lines, and before the first one."""


def unseen(old: Path, done: int, total: int) -> None:
    """Say nothing."""


@contextmanager
def shown(screen: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Arriving]:
    """Show on `screen` how far it is, until the end."""
    if not screen.is_terminal:
        yield _lines(screen, clock)
        return
    with screen.status("importing") as status:
        yield lambda old, done, total: status.update(escape(_told(old, done, total)))


def _lines(screen: Console, clock: Callable[[], float]) -> Arriving:
    last = clock()

    def told(old: Path, done: int, total: int) -> None:
        nonlocal last
        if clock() - last >= _PAUSE:
            last = clock()
            screen.print(_told(old, done, total), soft_wrap=True, markup=False, highlight=False)

    return told


def _told(old: Path, done: int, total: int) -> str:
    return f"importing: {done} of {total} runs of {old} looked at"
