"""The sections of a report, in order: each a heading and its HTML."""

from __future__ import annotations

from collections.abc import Iterator

from composer.page.document import Section
from search.report import evidence, facts, results
from search.report.finals import finals
from search.report.read import Source


def sections(source: Source) -> Iterator[Section]:
    """Yield the sections that are not empty."""
    yield Section("front", "Front", "What was found", results.front(source))
    if source.standings:
        yield Section("finals", "Finals", "Finals: retrained with fresh seeds", finals(source))
    if facts.metrics(source):
        yield Section("curves", "Curves", "Learning curves by rung", results.curves(source))
    yield Section(
        "parameters", "Search parameters", "What the search parameters do", evidence.parameters(source)
    )
    if source.state.config.marks:
        yield Section("rungs", "Rungs", "Do rungs predict the final ranking?", evidence.rungs(source))
    if source.caps and source.front:
        yield Section("caps", "Caps", "Costs against caps", results.caps(source))
    if source.winner is not None:
        yield Section("lineage", "Lineage", "Where the winner comes from", results.lineage_of(source))
    if any(record.role == "baseline" for record in source.records()):
        yield Section("baselines", "Baselines", "Baselines and what they cost", results.baselines(source))
    yield Section("history", "History", "How the search went", evidence.history(source))
    yield Section("trials", "Trials", "All trials", results.trials(source))
    yield Section("method", "Method", "How to read this", evidence.method(source))
