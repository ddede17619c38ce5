"""The progress of a training: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer.training.recorder import Progress

_SECONDS_PER_LINE = 10.0


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """Give what to call with each report of a training."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(progress: Progress) -> None:
            bar.update(task, total=progress.steps, completed=progress.step, description=_told(progress))

        yield show


class _Lines:
    """Prints the first report, the last, each evaluation, and one every few seconds."""

    def __init__(self) -> None:
        self.printed = -_SECONDS_PER_LINE
        self.metrics: Any = None

    def __call__(self, progress: Progress) -> None:
        due = time.monotonic() - self.printed >= _SECONDS_PER_LINE
        if due or progress.metrics != self.metrics or progress.step == progress.steps:
            self.printed, self.metrics = time.monotonic(), progress.metrics
            print(f"step {progress.step}/{progress.steps}  {_told(progress)}", flush=True)


def _told(progress: Progress) -> str:
    parts = [] if progress.loss is None else [f"loss {progress.loss:.3f}"]
    if progress.metrics:
        parts.append(f"accuracy {progress.metrics['accuracy']:.3f}")
    if progress.tokens_per_second and progress.seconds_left is not None:
        parts += [f"{progress.tokens_per_second:,.0f} tokens/s", f"{clock(progress.seconds_left)} left"]
    return "  ".join(parts) or "starting"


def clock(seconds: float) -> str:
    """Write a time as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
