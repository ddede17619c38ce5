"""Pieces of HTML that sections of a page are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from composer.page.chart import Chart

_TAG = re.compile(r"<[^>]*>")
_LONG = 60
"""Number of letters above which a cell is not made narrow."""


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
