"""The progress of a study on the terminal: a line for each row, and a live line while a run trains."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from composer.costs.base.units import count_text, duration
from search.study.run import Event, Progress

_REFRESH = 0.25


class Terminal:
    """Prints a line for each row; on a terminal also a live line. A context manager."""

    def __init__(self, console: Console, measure: str) -> None:
        self._console, self._measure = console, measure
        self._live = (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        )
        self._drawn = 0.0
        self._running: dict[int, str] = {}

    def __enter__(self) -> Terminal:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, event: Event, progress: Progress) -> None:
        """Show an event."""
        if event == "progress":
            now = time.monotonic()
            self._running[progress.worker] = _running(progress)
            if self._live is not None and now - self._drawn >= _REFRESH:
                self._drawn = now
                self._live.update(_cut("\n".join(self._running.values())), refresh=True)
            return
        self._running.pop(progress.worker, None)
        if line := _line(event, progress, self._measure):
            self._console.print(Text(line), soft_wrap=True)


def _line(event: Event, progress: Progress, measure: str) -> str:
    counted = f"{progress.done} of {progress.runs} runs"
    row = progress.row
    match event:
        case "begin":
            return f"{counted} are done"
        case "row" if row is not None:
            value = row.metrics.get(measure)
            score = "" if value is None else f"{measure} {value:.4g}, "
            took = f", {duration(row.seconds)}" if row.seconds else ""
            result = f"{score}loss {row.metrics['loss']:.4g}{took}"
            return f"{progress.run}, {count_text(row.budget)} tokens: {result}; {counted}"
        case "crashed" if row is not None:
            return f"{progress.run} could not be trained: {row.crashed}"
        case "note":
            return progress.note
        case "end":
            return f"{counted} are done: nothing is due"
    return ""


def _running(progress: Progress) -> str:
    loss = "" if progress.step.train_loss is None else f", training loss {progress.step.train_loss:.3f}"
    tokens = f"{count_text(progress.step.tokens)} of {count_text(progress.target)} tokens"
    return f"{progress.run}: {tokens}{loss}; {progress.done} of {progress.runs} runs"


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")
