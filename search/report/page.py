"""The page: all sections of a report, with the data that its script shows for each point."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from importlib.resources import files
from typing import Any

from composer.costs.base.units import amount
from composer.draw.layout import picture
from composer.draw.svg import svg
from composer.page.document import document
from search.progress import continue_command
from search.progress.words import by_name, shorts, titled, value_text
from search.report import facts, sections
from search.report.headline import header
from search.report.read import Source
from search.store.ledger import Record

_DRAWN = 40
"""Most specs that are drawn; a drawing takes about ten milliseconds and ten kilobytes."""


def page(source: Source, now: datetime) -> str:
    """Return a report as one self-contained page: no network, no other files."""
    script = files("search.report").joinpath("page.js").read_text(encoding="utf-8")
    parts = [*sections.sections(source)]
    return document(f"Search of {source.name}", header(source, now), parts, script, _points(source))


def _points(source: Source) -> dict[str, Any]:
    """Return, by target, what the panel shows for each record."""
    drawn = [*source.front, *source.trials_front]
    drawn += [record for record in source.records() if record.role == "baseline"]
    pictures = {record.identity for record in drawn[:_DRAWN]}
    return {
        record.key: dict(_point(source, record, record.identity in pictures))
        for record in [*source.shown, *source.state.ledger.finals()]
    }


def _point(source: Source, record: Record, drawn: bool) -> Iterator[tuple[str, Any]]:
    state = source.state
    yield "title", titled(state, record)
    marks = [("; on the front", record.identity in source.best), ("; its knee", record is source.knee)]
    yield "status", facts.status(record) + "".join(text for text, holds in marks if holds)
    yield "reason", record.reason
    yield "values", [(name, value_text(name, value)) for name, value in by_name(state, record).items()]
    yield "tokens", value_text("params", record.tokens)
    yield "seconds", record.seconds
    names = shorts(record.params)
    yield "parameters", [(names[name], str(value), name) for name, value in record.params.items()]
    yield "costs", [_cost(source, name, value) for name, value in record.costs.items()]
    yield (
        "seen",
        [
            (
                value_text("params", seen.tokens),
                {name: f"{value:.4g}" for name, value in seen.metrics.items()},
            )
            for seen in record.seen
        ],
    )
    yield "moves", [str(move) for move in record.origin.get("moves", ())]
    yield "imported", record.imported
    yield "folder", str(source.folder / record.folder)
    if record.identity in source.specs:
        yaml, spec = source.specs[record.identity]
        yield "yaml", yaml
        yield "command", continue_command.command_for(source.folder, record, spec)
        if drawn:
            yield "drawing", svg(picture(spec))


def _cost(source: Source, name: str, value: float) -> tuple[str, str, str, float | None]:
    cap = source.caps.get(name)
    return name, amount(name, value), amount(name, cap) if cap else "", value / cap if cap else None
