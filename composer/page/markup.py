"""Pieces of HTML that sections of a page are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from composer.page.chart import Chart

_TAG = re.compile(r"<[^>]*>")
_LONG = 60
"""Number of letters above which a cell is not made narrow."""
_HEAD = 10
"""Number of letters above which the head of a column of numbers may be broken."""


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


def either(wide: Chart, narrow: Chart) -> str:
    """Show a chart, on a phone the narrow version of it."""
    return f'<div class="wide">{figure(wide)}</div><div class="narrow">{figure(narrow)}</div>'


def legend(*entries: tuple[str, str]) -> str:
    """Return a legend: each kind of mark with its meaning."""
    items = "".join(f'<li><span class="key {kind}"></span>{escape(words)}</li>' for kind, words in entries)
    return f'<ul class="legend">{items}</ul>'


def warn(text: str) -> str:
    """Return a warning."""
    return f'<p class="warning"><strong>Careful:</strong> {escape(text)}</p>'


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], words: tuple[int, ...] = (), stacked: bool = False
) -> str:
    """Return a table of HTML cells; columns are numeric except those in `words`.

    If `stacked`, a row is shown on a phone as a paragraph, each cell after the name of its column.
    """

    def cell(number: int, text: str) -> str:
        wide = len(_TAG.sub("", text)) > _LONG
        kind = "long" * wide if number in words else "number"
        name = f' data-name="{escape(head[number])}"' if stacked else ""
        return f'<td class="{kind}"{name}>{text}</td>'

    def title(number: int, name: str) -> str:
        kind = "" if number in words else "number breaks" if len(name) > _HEAD else "number"
        return f'<th class="{kind}">{escape(name)}</th>'

    top = "".join(title(*each) for each in enumerate(head))
    body = "".join(f"<tr>{''.join(cell(*each) for each in enumerate(row))}</tr>" for row in rows)
    kind = ' class="stacked"' if stacked else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )
