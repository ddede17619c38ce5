"""Pieces of HTML that sections are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from composer.costs.base.units import amount
from composer.costs.matching.residuals import percent
from search.progress.words import named, shorts
from search.report.chart import Chart
from search.report.read import Source
from search.store.ledger import Record

_TAG = re.compile(r"<[^>]*>")
_LONG = 60
"""Number of letters above which a cell is not made narrow."""


def link(source: Source, record: Record) -> str:
    """Return a link to a record."""
    return f'<a href="#{record.key}" class="to">{escape(named(source.state, record))}</a>'


def answers(record: Record) -> str:
    """Return the knob values of a record."""
    names = shorts(record.params)
    return ", ".join(f"{names[name]} {value}" for name, value in record.params.items()) or "as its spec says"


def alternatives(name: str, charts: dict[str, Chart]) -> str:
    """Show one of several charts, chosen by name."""
    bodies = "".join(
        f'<div class="alternative" data-name="{escape(key)}">{figure(chart)}</div>'
        for key, chart in charts.items()
    )
    return choice(name, list(charts)) + bodies


def choice(name: str, options: Sequence[str]) -> str:
    """Return the control that selects one of the alternatives of a section."""
    if len(options) < 2:
        return ""
    items = "".join(f"<option>{escape(option)}</option>" for option in options)
    return f'<p class="choice"><label>{escape(name)} <select>{items}</select></label></p>'


def figure(chart: Chart) -> str:
    """Show a chart."""
    return f'<div class="figure" tabindex="-1">{chart.svg()}</div>'


def legend(*entries: tuple[str, str]) -> str:
    """Return a legend: each kind of mark with its meaning."""
    items = "".join(f'<li><span class="key {kind}"></span>{escape(words)}</li>' for kind, words in entries)
    return f'<ul class="legend">{items}</ul>'


def warn(text: str) -> str:
    """Return a warning."""
    return f'<p class="warning"><strong>Careful:</strong> {escape(text)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: tuple[int, ...] = ()) -> str:
    """Return a table of HTML cells; columns are numeric except those in `words`."""

    def cells(tag: str, row: Sequence[str]) -> str:
        lengths = (len(_TAG.sub("", text)) for text in row)
        kinds = ("long" * (n > _LONG) if i in words else "number" for i, n in enumerate(lengths))
        return "".join(f'<{tag} class="{kind}">{text}</{tag}>' for kind, text in zip(kinds, row, strict=True))

    top = cells("th", [escape(name) for name in head])
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def residual(source: Source, record: Record, name: str) -> str:
    """Return a cost, and its difference from the winner's."""
    value, winner = record.costs.get(name), source.winner
    if value is None:
        return ""
    text = escape(amount(name, value))
    base = None if winner is None or record is winner else winner.costs.get(name)
    return f"{text} <span class='soft'>({percent(100 * (value / base - 1))})</span>" if base else text


def bar(text: str, share: float) -> str:
    """Return a share as a bar with text."""
    over = " over" if share > 1 else ""
    return (
        f'<div class="cap{over}"><span style="width:{100 * min(1, share):.1f}%"></span></div>'
        f'<span class="number">{escape(text)}, {100 * share:.0f} %</span>'
    )


def cell(html: str, key: str) -> str:
    """Return a cell that is sorted by `key`."""
    return f'<td data-key="{escape(key)}">{html}</td>'


def number(text: str, value: float | None) -> str:
    """Return a cell that is sorted by a number."""
    return f'<td class="number" data-key="{"" if value is None else repr(value)}">{escape(text)}</td>'


def answer(value: Any) -> str:
    """Return a cell with the value of a knob."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(f"{value:g}", value)
    return cell(escape("" if value is None else str(value)), "" if value is None else str(value))
