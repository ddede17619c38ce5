"""The progress of an inspection: a bar on a terminal, else a line for each measure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tell = Callable[[str, str, int, int], None]


@contextmanager
def passes() -> Iterator[Tell]:
    """Give what to call with a run, a measure, and how many of how many of its passes are done."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn(), console=console, transient=True
    ) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda run, measure, done, of: bar.update(
            task, description=f"{run}: {measure}", total=of or None, completed=done
        )


def _line(run: str, measure: str, done: int, of: int) -> None:
    if not of:
        print(f"{run}: {measure}", file=sys.stderr, flush=True)
