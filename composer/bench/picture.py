"""A benchmark as a picture: bars of the share of the floor that each contestant reaches. SVG. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from composer.bench.measuring.records import Part, Row
from composer.costs.base.units import count_text, seconds_text

_FONT = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
_INK, _SOFT, _RULE, _OURS, _OTHER, _GOAL = "#1b2430", "#55606e", "#c3cad3", "#1d5aa6", "#a9b2bd", "#d9660f"
_COLUMN, _GAP, _MARGIN, _TOP = 620.0, 40.0, 24.0, 96.0
_LABEL, _BAR, _LINE, _HEAD = 210.0, 250.0, 20.0, 46.0
_CHARS = 33
"""Letters of a label that fit."""


class _Group(NamedTuple):
    """What stands side by side: one task at one size."""

    title: str
    rows: list[Row]

    @property
    def height(self) -> float:
        return _HEAD + _LINE * len(self.rows) + 14


def draw(parts: Sequence[Part], about: Mapping[str, Any]) -> str:
    """Return the picture.

    A bar is a contestant's share of the floor, its length all of it; where no floor is known, or at small
    sizes, where overheads rule, the longest bar is the fastest contestant.
    """
    columns = _columns([*_groups(parts)])
    height = _TOP + max(sum(group.height for group in column) for column in columns) + _MARGIN
    width = 2 * _MARGIN + len(columns) * _COLUMN + (len(columns) - 1) * _GAP
    machine, rates = about["machine"], about["rates"]
    description = [
        f"{machine['device']}, torch {machine['torch']}, {about['dtype']}, {about['rounds']} rounds",
        f"copy {count_text(rates['copy'])}B/s, product {count_text(rates['product'])}FLOP/s in the same run",
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}" width="{_n(width)}"'
        f' height="{_n(height)}" role="img" font-family="{_FONT}">',
        f"<title>composer bench: {escape(str(about['of']))}</title>",
        f"<desc>{escape('; '.join(description))}</desc>",
        f'<rect width="{_n(width)}" height="{_n(height)}" fill="#ffffff"/>',
        _text(_MARGIN, 34, f"composer bench: {about['of']}", 20, bold=True),
        *(_text(_MARGIN, 56 + 18 * number, line, 13, _SOFT) for number, line in enumerate(description)),
    ]
    for number, column in enumerate(columns):
        x, y = _MARGIN + number * (_COLUMN + _GAP), _TOP
        for group in column:
            lines += _group(group, x, y, bool(about["full_size"]))
            y += group.height
    return "\n".join([*lines, "</svg>", ""])


def _groups(parts: Sequence[Part]) -> Iterator[_Group]:
    for part in parts:
        for (case, task), rows in groupby(part.rows, lambda row: (row.case, row.task)):
            yield _Group(f"{part.name}: {task}, {case}", [*rows])


def _columns(groups: Sequence[_Group]) -> list[list[_Group]]:
    """Break groups into two columns of about the same height, in order; few stay in one."""
    if len(groups) < 3:
        return [[*groups]]
    half, first, height = sum(group.height for group in groups) / 2, 0, 0.0
    while first < len(groups) and height < half:
        height += groups[first].height
        first += 1
    return [[*groups[:first]], [*groups[first:]]]


def _group(group: _Group, x: float, y: float, full: bool) -> Iterator[str]:
    shares = [_length(row) for row in group.rows]
    whole = all(row.share is not None for row in group.rows if row.seconds) and full
    longest = 1.0 if whole else max(shares, default=0.0) or 1.0
    caption = "the whole length is the floor" if whole else "the longest bar is the fastest"
    yield _text(x, y + 16, group.title, 13, bold=True)
    yield _text(x, y + 33, caption, 11, _SOFT)
    bars, top = x + _LABEL, y + _HEAD
    for number, (row, share) in enumerate(zip(group.rows, shares, strict=True)):
        line = top + number * _LINE
        yield _text(x, line + 12, _short(row.name), 12, _OURS if row.ours else _INK, bold=row.ours)
        if row.seconds is None:
            yield _text(bars, line + 12, _short(row.note, 66), 11, _SOFT)
            continue
        length = _BAR * min(share / longest, 1.0)
        yield _bar(bars, line + 2, _BAR, "none", _RULE)
        yield _bar(bars, line + 2, length, _OURS if row.ours else _OTHER)
        yield from (_mark(bars + _BAR * goal, line) for goal in _marks(row) if whole)
        yield _text(bars + _BAR + 10, line + 12, _figures(row), 12, _SOFT)


def _length(row: Row) -> float:
    if not row.seconds:
        return 0.0
    return row.share or 1 / row.seconds


def _marks(row: Row) -> list[float]:
    """Return the goals of a row that are shares of its floor."""
    return [goal.wanted if goal.least else 1 / goal.wanted for goal in row.goals if "floor" in goal.text]


def _figures(row: Row) -> str:
    said = [seconds_text(row.seconds or 0.0)]
    if row.tokens is not None:
        said.append(f"{count_text(row.tokens)} tokens/s")
    elif row.share is not None:
        said.append(f"{row.share:.0%} of floor")
    return ", ".join(said)


def _bar(x: float, y: float, length: float, fill: str, stroke: str = "none") -> str:
    line = "" if stroke == "none" else f' stroke="{stroke}"'
    return f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(length)}" height="13" fill="{fill}"{line}/>'


def _mark(x: float, y: float) -> str:
    return f'<path d="M{_n(x)} {_n(y - 1)}V{_n(y + 17)}" stroke="{_GOAL}" stroke-width="2"/>'


def _text(x: float, y: float, text: str, size: float, colour: str = _INK, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}"{weight} fill="{colour}">{escape(text)}</text>'
    )


def _short(text: str, most: int = _CHARS) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
