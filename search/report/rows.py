"""Figures with a row for each name: the importance and effect of parameters, the agreement of rungs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from composer.page.chart import WIDE, Chart, Scale, scale, width_of
from search.progress.words import shorts, value_text
from search.report import facts
from search.report.figures import percent
from search.report.stats import Effects

_EDGE = 14.0
_HEADING = 16
"""The height of the texts above a row, in pixels."""


@dataclass(frozen=True)
class Rows:
    """Rows with a name and a value each: at the sides of the marks, on a phone above them.

    Attributes:
        width: of the chart.
        height: of a row at its least.
        names, values: their texts, by row.
    """

    width: float
    height: float
    names: Sequence[str]
    values: Sequence[str]

    @property
    def above(self) -> bool:
        """Whether names and values stand above the marks."""
        return self.width < WIDE

    @property
    def left(self) -> float:
        """Where the marks begin."""
        return _EDGE if self.above else 24 + max(map(width_of, self.names))

    @property
    def right(self) -> float:
        """Where the marks end."""
        return self.width - (_EDGE if self.above else 30 + max(map(width_of, self.values)))

    @property
    def step(self) -> float:
        """The height of a row with its texts."""
        return self.height + (_HEADING if self.above else 0)

    @property
    def total(self) -> float:
        """The height of all rows."""
        return self.step * len(self.names)

    def place(self, chart: Chart, number: int, top: float, name_kind: str = "") -> float:
        """Write name and value of a row, and return the middle of its marks; `top` is that of the first."""
        middle = top + self.step * number + (_HEADING if self.above else 0)
        base = middle - self.height / 2 if self.above else middle + 4
        if self.above:
            chart.words(self.left, base, self.names[number], name_kind)
            chart.words(self.right, base, self.values[number], "tick end")
        else:
            chart.words(self.left - 10, base, self.names[number], f"{name_kind} end")
            chart.words(self.right + 14, base, self.values[number], "tick")
        return middle


def importance(effects: Effects, name: str, parameters: Sequence[str], width: float = WIDE) -> Chart:
    """Draw the share of variance that each parameter explains, and the share expected by chance."""
    called = shorts(parameters)
    rows = Rows(
        width,
        28,
        [called[each.parameter] for each in effects.parameters],
        ["< 0.1 %" if each.share < 0.001 else f"{100 * each.share:.2g} %" for each in effects.parameters],
    )
    chart = Chart(
        width,
        66 + rows.total,
        f"importance of parameters for {name}",
        "; ".join(f"{each.parameter}: {100 * each.share:.0f} %" for each in effects.parameters),
    )
    across = Scale(0, max(0.1, *(min(1.0, each.high) for each in effects.parameters)), rows.left, rows.right)
    chart.below(across, chart.height - 48, 8, percent, f"share of the variance of {name} between trials")
    for number, each in enumerate(effects.parameters):
        y = rows.place(chart, number, 22)
        weak = " weak" if each.share <= each.chance else ""
        chart.box(rows.left, y - 7, across(min(each.share, across.high)) - rows.left, 14, f"bar{weak}")
        chart.line([(across(min(x, across.high)), y) for x in (each.low, each.high)], "whisker")
        chance = across(min(each.chance, across.high))
        chart.line([(chance, y - 10), (chance, y + 10)], "chance")
    return chart


def effect(effects: Effects, name: str, parameters: Sequence[str], width: float = WIDE) -> Chart:
    """Draw what each value of a parameter adds to the mean, with its interval."""
    called = shorts(parameters)
    levels = [(each, level) for each in effects.parameters for level in each.levels]
    left = 28 + max(width_of(f"{level.label} ({level.count})") for _, level in levels)
    chart = Chart(
        width,
        60 + 21 * len(levels) + 30 * len(effects.parameters),
        f"effect of parameters on {name}",
        "; ".join(f"{each.parameter}={level.label}: {level.effect:+.3g}" for each, level in levels),
    )
    values = [x for _, level in levels for x in (level.low, level.high, 0.0)]
    across = scale(values, left, width - 24)
    bottom = chart.height - 48
    chart.below(across, bottom, 6, partial(_signed, name), f"{name} against the mean of trials that have it")
    chart.line([(across(0), bottom), (across(0), 6)], "zero")
    y = 20.0
    for each in effects.parameters:
        weak = " weak" if each.share <= each.chance else ""
        chart.words(_EDGE, y + 4, called[each.parameter], "tick" if weak else "")
        for level in each.levels:
            y += 21
            chart.words(left - 14, y + 4, f"{level.label} ({level.count})", "tick end")
            chart.line([(across(level.low), y), (across(level.high), y)], f"whisker{weak}")
            chart.dot(across(level.effect), y, 4.2, f"point{weak}")
        y += 30
    return chart


def rungs(pairs: Sequence[facts.Pair], width: float = WIDE) -> Chart:
    """Draw the agreement of pairs of rungs."""
    several = len({pair.metric for pair in pairs}) > 1
    names = [f"{pair.metric}: " * several + f"{pair.first} and {pair.second}" for pair in pairs]
    rows = Rows(width, 30, names, [f"{_tau(pair)}, {pair.trials} runs" for pair in pairs])
    chart = Chart(
        width,
        62 + rows.total,
        "rank correlation between rungs",
        "; ".join(f"{name}: {_tau(pair)}" for name, pair in zip(names, pairs, strict=True)),
    )
    across = Scale(-1, 1, rows.left, rows.right)
    chart.below(across, chart.height - 46, 6, lambda value: f"{value:g}", "Kendall's tau, 90 % interval")
    chart.line([(across(0), chart.height - 46), (across(0), 6)], "zero")
    for number, pair in enumerate(pairs):
        y = rows.place(chart, number, 22)
        weak = " weak" if pair.doubt else ""
        if pair.agreement is not None:
            low, high = pair.agreement.low, pair.agreement.high
            chart.line([(across(max(-1, low)), y), (across(min(1, high)), y)], f"whisker{weak}")
            chart.dot(across(pair.agreement.tau), y, 5, f"point{weak}")
    return chart


def _signed(name: str, value: float) -> str:
    if math.isclose(value, 0, abs_tol=1e-12):
        return "0"
    text = value_text(name, abs(value))
    return f"{'+' if value > 0 else '-'}{text}"


def _tau(pair: facts.Pair) -> str:
    return "not known" if pair.agreement is None else f"tau {pair.agreement.tau:.2f}"
