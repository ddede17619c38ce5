"""The figures of a study: scores against tokens, FLOPs and time, and the factors of its claims."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import fmean, median
from textwrap import wrap

from composer.costs.base.units import count_text, duration
from composer.page.chart import WIDE, Chart, label, n, name_width, path, scale, spread
from composer.page.markup import Draw
from search.study.config import COSTS
from search.study.load import StudyArm
from search.study.plan import Results
from search.study.rows import Row
from search.study.tables import UNITS, factor_cells
from search.study.verdicts import Verdict

_LEFT, _TOP, _BELOW = 66.0, 40.0, 52.0
_VALUE, _NOTE, _LETTER = 60.0, 16, 6.4
"""Width kept for a factor; height of a line of a claim's label, width of its letters."""
_HUES, _LINE = 4, 17
"""Number of colours; arms beyond them differ in the dashes of their lines."""


def curves(results: Results) -> Iterator[tuple[str, Draw]]:
    """Yield what draws the curves, by name: of the measure and of the loss against each cost."""
    for metric in dict.fromkeys([results.plan.config.measure, "loss"]):
        for cost in COSTS:
            if any(_points(results, arm, metric, cost) for arm in results.plan.study.arms):
                yield f"{metric} against {UNITS[cost]}", partial(_curve, results, metric, cost)


def _curve(results: Results, metric: str, cost: str, width: float = WIDE) -> Chart:
    """Draw the mean of a held-out score over fresh seeds against a cost, and every seed."""
    drawn = [(arm, _points(results, arm, metric, cost)) for arm in results.plan.study.arms]
    points = [(arm, line) for arm, line in drawn if line]
    title = f"{metric} against {UNITS[cost]}"
    caption = "; ".join(
        f"{arm.title}: {line[-1][2]:.4g} at {_cost_text(cost, line[-1][0])}" for arm, line in points
    )
    beside, keys = width == WIDE, _LINE * len(points)
    height = max(400, keys + 110) if beside else 330 + keys
    chart = Chart(width, height, title, f"means over fresh seeds; {caption}")
    room = max(name_width(arm.title) for arm, _ in points) + 26 if beside else 16
    left = _LEFT if beside else 50
    bottom = height - _BELOW - (0 if beside else keys)
    across = scale((x for _, line in points for x, *_ in line), left, width - room, log=True)
    up = scale((y for _, line in points for _, ys, _ in line for y in ys), bottom, _TOP)
    marks = list(results.plan.config.budgets) if cost == "tokens" else None
    chart.below(across, up.start, _TOP, lambda x: _cost_text(cost, x), UNITS[cost], marks)
    chart.beside(up, left, across.end, lambda y: f"{y:g}" if y == 0 else f"{y:.3g}", metric)
    for number, (_, means) in enumerate(points):
        line = [(across(x), up(mean)) for x, _, mean in means]
        items = [f'<path class="line" fill="none" d="{path(line)}"/>']
        items += [_disc("seed-mark", across(x), up(y), 2.4) for x, ys, _ in means for y in ys]
        items += [_disc("mark", x, y, 4) for x, y in line]
        chart.items.append(f'<g class="{_style(number)}">{"".join(items)}</g>')
    ends = [up(line[-1][2]) for _, line in points]
    x = across.end + 4 if beside else left
    # without room beside the curves, names are below them, in the order of their ends
    places = spread(ends, _LINE, _TOP, up.start) if beside else spread(ends, _LINE, bottom + 54, height - 14)
    for number, ((arm, _), y) in enumerate(zip(points, places, strict=True)):
        key = f'<path class="line" fill="none" d="{path([(x, y), (x + 14, y)])}"/>'
        chart.items.append(f'<g class="{_style(number)}">{key}</g>')
        chart.items.append(label(x + 18, y + 4, arm.title, "name"))
    return chart


def claims(judged: Sequence[Verdict], width: float = WIDE) -> Chart:
    """Draw the factor of each claim with its interval, and the claimed factor as a tick."""
    left_edge = _LEFT if width == WIDE else 10.0
    shown = [each for each in judged if each.factor.value is not None]
    spans = [tuple(each.factor.interval()) for each in shown]
    caption = "; ".join(f"{each.claim}: {each.judgement}" for each in shown)
    names = [_lines(f"{each.claim}: {each.judgement}", width - left_edge - _VALUE) for each in shown]
    rows = [28 + _NOTE * len(name) for name in names]
    chart = Chart(width, sum(rows) + 100, "Factors of the claims", caption)
    finite = [x for span in spans for x in span if 0 < x < math.inf]
    values = [
        1.0,
        *(each.claim.factor for each in shown),
        *(each.factor.value or 1 for each in shown),
        *finite,
    ]
    # one wide interval would hide the others
    near = [min(max(x, 1 / 16), 16) for x in values]
    across = scale(near, left_edge, width - 24, log=True)
    bottom = chart.height - _BELOW
    chart.below(
        across,
        bottom,
        24,
        lambda x: f"{x:g}",
        "factor: how many times less the first arm needs (orange: as claimed; hollow: undecided)"
        if width == WIDE
        else "factor (orange: as claimed; hollow: undecided)",
    )
    chart.line([(across(1), bottom), (across(1), 24)], "zero")
    for number, (each, (low, high)) in enumerate(zip(shown, spans, strict=True)):
        y = 30 + sum(rows[: number + 1]) - 18
        for line, text in enumerate(reversed(names[number])):
            chart.words(left_edge, y - 14 - _NOTE * line, text, "note")
        left, right = (across(min(max(x, across.low), across.high)) for x in (low, high))
        chart.line([(left, y), (right, y)], "whisker")
        value = each.factor.value
        assert value is not None
        chart.dot(
            across(min(max(value, across.low), across.high)),
            y,
            5,
            "point" if each.judgement != "undecided" else "point weak",
        )
        claimed = across(each.claim.factor)
        chart.line([(claimed, y - 9), (claimed, y + 9)], "chance")
        chart.words(width - 24, y - 14, " ".join(filter(None, factor_cells(each.factor)[:1])), "note end")
    return chart


def _lines(text: str, width: float) -> list[str]:
    """Break a label into lines of at most about a width."""
    return wrap(text, max(int(width / _LETTER), 20), break_on_hyphens=False)


def _points(
    results: Results, arm: StudyArm, metric: str, cost: str
) -> list[tuple[float, list[float], float]]:
    """Return, by budget, the median cost, the scores and their mean."""
    points = []
    for budget in results.plan.config.budgets:
        rows: list[Row] = [
            row
            for row in results.fresh(arm, budget).values()
            if math.isfinite(row.metrics.get(metric, math.nan))
        ]
        if rows and all(row.cost(cost) > 0 for row in rows):
            scores = [row.metrics[metric] for row in rows]
            # a median, since a busy machine makes some times far too long
            points.append((median(row.cost(cost) for row in rows), scores, fmean(scores)))
    return points


def _style(number: int) -> str:
    return f"arm hue-{number % _HUES} dash-{number // _HUES % 3}"


def _disc(kind: str, x: float, y: float, radius: float) -> str:
    return f'<circle class="{kind}" cx="{n(x)}" cy="{n(y)}" r="{n(radius)}"/>'


def _cost_text(cost: str, value: float) -> str:
    return duration(value) if cost == "seconds" else count_text(value)
