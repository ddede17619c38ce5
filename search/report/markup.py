"""Pieces of HTML that show records."""

from __future__ import annotations

from html import escape
from typing import Any

from composer.costs.base.units import amount
from composer.costs.matching.residuals import percent
from search.progress.words import named, shorts
from search.report.read import Source
from search.store.ledger import Record


def link(source: Source, record: Record) -> str:
    """Return a link to a record."""
    return f'<a href="#{record.key}" class="to">{escape(named(source.state, record))}</a>'


def answers(record: Record) -> str:
    """Return the parameter values of a record."""
    names = shorts(record.params)
    return ", ".join(f"{names[name]} {value}" for name, value in record.params.items()) or "as its spec says"


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
    """Return a cell with the value of a parameter."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(f"{value:g}", value)
    return cell(escape("" if value is None else str(value)), "" if value is None else str(value))
