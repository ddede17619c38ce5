"""Writing a report: the page, and each figure as a file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from composer.page.chart import Chart
from composer.training.folder.files import write_text
from search.progress.state import State
from search.progress.words import parameter_names
from search.report import facts, figures, finals, rows
from search.report.page import page
from search.report.read import Source, read

PAGE, FIGURES = "report.html", "figures"


def write_report(folder: Path, out: Path | None = None, seen: State | None = None) -> Path:
    """Write the report of the search in `folder` and return its path.

    Without `out` it is written into the folder, with its figures; else to `out`, and nothing is written
    to the folder. `seen` is the search as a worker saw it, for data that the folder lacks.

    Raises:
        SearchError: there is no search in the folder, or it cannot be read.
        OSError: the report cannot be written.
    """
    source = read(folder, seen)
    path = folder / PAGE if out is None else out
    text = page(source, datetime.now())
    if out is None:
        (folder / FIGURES).mkdir(exist_ok=True)
        for name, chart in drawn(source):
            write_text(folder / FIGURES / f"{name}.svg", chart.svg(alone=True))
    write_text(path, text)
    return path


def drawn(source: Source) -> Iterator[tuple[str, Chart]]:
    """Yield the figures by name: front, finals, sweep, curves, importance, effects, rungs."""
    if axes := facts.axes(source):
        yield "front", figures.front(source, axes[0])
    if any(at.runs for at in source.standings):
        yield "finals", finals.seeds_chart(source, facts.measured(source)[0])
    if finals.swept(source):
        yield "sweep", finals.sweep_chart(source, facts.measured(source)[0])
    if metrics := facts.metrics(source):
        yield "curves", figures.curves(source, metrics[0])
    parameters = parameter_names(source.records())
    for name in source.state.goals.names[:1]:
        if effects := facts.parameter_effects(source, name):
            yield "importance", rows.importance(effects, name, parameters)
            yield "effects", rows.effect(effects, name, parameters)
    if pairs := list(facts.pairs(source)):
        yield "rungs", rows.rungs(pairs)
