"""The progress of an import: a status line on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.markup import escape

Arriving: TypeAlias = Callable[[Path, int, int], None]
"""Called before each run of another search is judged: its folder, the number of earlier runs, the total."""

_PAUSE = 5.0
"""Seconds between two lines, and before the first."""


def unseen(old: Path, done: int, total: int) -> None:
    """Show no progress."""


@contextmanager
def shown(screen: Console, clock: Callable[[], float] = time.monotonic) -> Iterator[Arriving]:
    """Show the progress on `screen` until the end."""
    if not screen.is_terminal:
        yield _lines(screen, clock)
        return
    with screen.status("importing") as status:
        yield lambda old, done, total: status.update(escape(_progress(old, done, total)))


def _lines(screen: Console, clock: Callable[[], float]) -> Arriving:
    last = clock()

    def printed(old: Path, done: int, total: int) -> None:
        nonlocal last
        if clock() - last >= _PAUSE:
            last = clock()
            screen.print(_progress(old, done, total), soft_wrap=True, markup=False, highlight=False)

    return printed


def _progress(old: Path, done: int, total: int) -> str:
    return f"importing: {done} of {total} runs of {old} looked at"
