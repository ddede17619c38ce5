"""Charts of what measures found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from xml.sax.saxutils import quoteattr

from composer.inspect.base.views import Heat, Lines, Points
from composer.page.chart import Chart, Scale, n, scale, width_of

_COLOURS = 5
_ALL = "all"
_LEFT, _TOP, _LEGEND, _BELOW = 62.0, 64.0, 20.0, 52.0
_PALEST, _STRONGEST = 0.04, 0.56
"""Opacities of cells: text in the usual colour can be read on all of them."""
_LEAST_SHARE = 0.05
"""The share that has the strongest colour at least, so that what shows as 0 is pale."""


def lines(view: Lines, width: float, twins: Sequence[Lines] = ()) -> Chart:
    """Draw curves, with a legend where there are several; `twins` have the same scale of y."""
    keys = _keys([*view.series], width) if len(view.series) > 1 else {}
    top = _TOP + max((y for _, y in keys.values()), default=0.0)
    height = 270.0 + top
    drawn = {name: _finite(points) for name, points in view.series.items()}
    xs = [x for points in drawn.values() for x, _ in points]
    ys = [y for each in (view, *twins) for points in each.series.values() for _, y in _finite(points)]
    if not ys:
        return _empty(view.title, width)
    across = scale(xs, _LEFT, width - 12, room=0.02)
    up = scale([*ys, 0.0] if min(ys) >= 0 else ys, height - _BELOW, top, room=0.04)
    if view.share:
        up = Scale(0.0, 1.0, height - _BELOW, top)
    chart = Chart(width, height, view.title, f"{view.y} by {view.x}")
    chart.words(12, 20, view.title, "name")
    chart.beside(up, _LEFT, across.end, _percent if view.share else _short, view.y)
    chart.below(_Whole(across), height - _BELOW, top, lambda value: f"{value:g}", view.x)
    if view.marked is not None:
        x, label = view.marked
        chart.line([(across(x), up.start), (across(x), up.end)], "rung")
        chart.words(across(x) + 5, up.end + 12, label, "note")
    for (name, points), kind in zip(drawn.items(), _kinds([*drawn]), strict=True):
        chart.line([(across(x), up(y)) for x, y in points], f"curve {kind}")
        for x, y in points:
            label = f"{name}, {view.x} {x:g}: {_percent(y) if view.share else f'{y:.4g}'}"
            dot = f'<circle class="at {kind}" cx="{n(across(x))}" cy="{n(up(y))}" r="3.4"/>'
            chart.items.append(_tipped(dot, label))
        if name in keys:
            x, y = keys[name]
            chart.line([(x, y + 22), (x + 26, y + 22)], f"curve {kind}")
            chart.words(x + 32, y + 26, name, "tick")
    return chart


def _keys(names: Sequence[str], width: float) -> dict[str, tuple[float, float]]:
    """Return where the legend has each name, in lines of a width; y from the first line's."""
    made, x, y = {}, _LEFT, _LEGEND
    for name in names:
        room = 32 + width_of(name)
        if x > _LEFT and x + room > width:
            x, y = _LEFT, y + _LEGEND
        made[name] = (x, y)
        x += room + 18
    return made


def _finite(points: Points) -> list[tuple[float, float]]:
    """Return the points that can be drawn: a model may have diverged."""
    return [(x, y) for x, y in points if isfinite(y)]


def _empty(title: str, width: float) -> Chart:
    chart = Chart(width, 60, title, "no finite number")
    chart.words(12, 20, title, "name")
    chart.words(12, 44, "not a finite number anywhere", "note")
    return chart


def _kinds(names: Sequence[str]) -> list[str]:
    """Return the style of each curve: that of all targets is the strongest."""
    others = [name for name in names if name != _ALL and len(names) > 1]
    return [f"c{others.index(name) % _COLOURS}" if name in others else "all" for name in names]


def heat(view: Heat, width: float, twins: Sequence[Heat] = ()) -> Chart:
    """Draw a table of numbers as colours, with the numbers where there is room; `twins` have its colours."""
    rows_of = (row for each in (view, *twins) for row in each.values)
    cells = [value for row in rows_of for value in row if value is not None and isfinite(value)]
    least = _LEAST_SHARE if view.share else 0.0
    top = view.top or max([least, *map(abs, cells)]) or 1.0
    left = max(30.0, *map(width_of, view.row_names)) + 26
    columns, rows = len(view.column_names), len(view.row_names)
    size = min((width - left - 12) / columns, 74.0)
    tall = max(min(size, 34.0), 18.0)
    height = 66 + rows * tall + 46
    chart = Chart(width, height, view.title, f"{view.rows} by {view.columns}")
    chart.words(12, 20, view.title, "name")
    chart.words(12, 46, view.rows, "tick")
    if view.share:
        chart.words(left + size * columns, 46, "in %", "tick end")
    chart.items.append(
        f'<rect class="ground" x="{n(left)}" y="56" width="{n(size * columns)}" height="{n(rows * tall)}"/>'
    )
    for number, row in enumerate(view.values):
        y = 56 + number * tall
        chart.words(left - 8, y + tall / 2 + 4, view.row_names[number], "tick end")
        for column, value in enumerate(row):
            if value is not None and isfinite(value):
                cell = _Cell(left + column * size, y, size, tall, value, min(abs(value) / top, 1.0))
                named = f"{view.rows} {view.row_names[number]}, {view.columns} {view.column_names[column]}"
                chart.items.append(_tipped(cell.marks(view.share), f"{named}: {_exact(value, view.share)}"))
    every = -(-max(map(width_of, view.column_names), default=0.0) // max(size - 4, 1)) or 1
    for column, name in enumerate(view.column_names):
        if column % int(every) == 0:
            chart.words(left + (column + 0.5) * size, 56 + rows * tall + 18, name, "tick middle")
    chart.words(left + size * columns / 2, 56 + rows * tall + 38, view.columns, "middle")
    return chart


@dataclass(frozen=True)
class _Cell:
    x: float
    y: float
    width: float
    height: float
    value: float
    depth: float

    def marks(self, shares: bool) -> str:
        kind = "more" if self.value >= 0 else "less"
        shade = _PALEST + (_STRONGEST - _PALEST) * self.depth
        box = (
            f'<rect class="cell {kind}" x="{n(self.x)}" y="{n(self.y)}" width="{n(self.width)}" '
            f'height="{n(self.height)}" fill-opacity="{shade:.3f}"/>'
        )
        text = f"{100 * self.value:z.0f}" if shares else f"{self.value:.2g}"
        if self.width < width_of(text) + 4:
            return box
        x, y = self.x + self.width / 2, self.y + self.height / 2 + 4
        return f'{box}<text x="{n(x)}" y="{n(y)}" class="middle">{text}</text>'


class _Whole(Scale):
    """A scale of whole numbers, all of them where there is room."""

    def __init__(self, like: Scale) -> None:
        super().__init__(like.low, like.high, like.start, like.end)

    def ticks(self, most: int = 12) -> list[float]:
        """Return whole values within the range."""
        first, last = -int(-self.low // 1), int(self.high // 1)
        every = max(1, -(-(last - first) // most))
        return [float(value) for value in range(first, last + 1, every)]


def _tipped(marks: str, tip: str) -> str:
    return f"<g data-tip={quoteattr(tip)}>{marks}</g>"


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _exact(value: float, shares: bool) -> str:
    return f"{100 * value:.2f} %" if shares else f"{value:.4g}"
