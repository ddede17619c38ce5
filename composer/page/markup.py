"""Pieces of HTML that sections of a page are made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from composer.page.chart import NARROW, WIDE, Chart

Draw = Callable[[float], Chart]
"""Draws a chart of a width."""

_TAG = re.compile(r"<[^>]*>")
_LONG = 60
"""Number of letters above which a cell is not made narrow."""
_HEAD = 10
"""Number of letters above which the head of a column may be broken."""


def alternatives(name: str, charts: Mapping[str, Draw]) -> str:
    """Show one of several charts, chosen by name."""
    bodies = "".join(
        f'<div class="alternative" data-name="{escape(key)}">{figure(draw)}</div>'
        for key, draw in charts.items()
    )
    return choice(name, list(charts)) + bodies


def choice(name: str, options: Sequence[str]) -> str:
    """Return the control that selects one of the alternatives of a section."""
    if len(options) < 2:
        return ""
    items = "".join(f"<option>{escape(option)}</option>" for option in options)
    return f'<p class="choice"><label>{escape(name)} <select>{items}</select></label></p>'


def figure(draw: Draw, wide: float = WIDE) -> str:
    """Show a chart, where there is little room its narrow version."""
    return (
        f'<div class="figure"><div class="wide">{draw(wide).svg()}</div>'
        f'<div class="narrow">{draw(NARROW).svg()}</div></div>'
    )


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
        kind = "number " * (number not in words) + "breaks" * (len(name) > _HEAD)
        return f'<th class="{kind}">{escape(name).replace("_", "_<wbr>")}</th>'

    top = "".join(title(*each) for each in enumerate(head))
    body = "".join(f"<tr>{''.join(cell(*each) for each in enumerate(row))}</tr>" for row in rows)
    kind = ' class="stacked"' if stacked else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
    )
