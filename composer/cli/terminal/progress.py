"""The progress of a training: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from composer.training.recorder import Progress

_SECONDS_PER_LINE = 10.0
_BAR = 16
"""The width of the bar, in columns."""


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

    columns = (BarColumn(_BAR), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)

        def show(progress: Progress) -> None:
            # on a line of its own, so that both fit a terminal of 80 columns
            figures = [_training(progress), *([_scores(progress.held_out)] if progress.held_out else [])]
            bar.update(task, total=progress.steps, completed=progress.step, description="\n".join(figures))

        yield show


class _Lines:
    """Prints the first report, the last, each evaluation once, and a line every few seconds."""

    def __init__(self) -> None:
        self.printed = -_SECONDS_PER_LINE
        self.step: int | None = None
        self.held_out: dict[str, float] | None = None

    def __call__(self, progress: Progress) -> None:
        due = time.monotonic() - self.printed >= _SECONDS_PER_LINE
        # a run that goes on begins with the scores of an evaluation that was shown before
        new = progress.held_out != self.held_out and progress.train_loss is not None
        if new or (progress.step != self.step and (due or progress.step == progress.steps)):
            figures = [
                _training(progress),
                *([_scores(progress.held_out)] if new and progress.held_out else []),
            ]
            self.printed, self.step, self.held_out = time.monotonic(), progress.step, progress.held_out
            print(f"step {progress.step}/{progress.steps}  {'  '.join(figures)}", flush=True)


def _scores(held_out: dict[str, float]) -> str:
    return f"held-out loss {held_out['loss']:.3f}, accuracy {held_out['accuracy']:.3f}"


def _training(progress: Progress) -> str:
    parts = [] if progress.train_loss is None else [f"train loss {progress.train_loss:.3f}"]
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.seconds_left is not None and progress.step < progress.steps:
        parts.append(f"{clock(progress.seconds_left)} left")
    return "  ".join(parts) or "starting"


def clock(seconds: float) -> str:
    """Write a time as 0:07, 12:30 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
