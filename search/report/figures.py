"""The figures of a report: each a chart, for the page and for a file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TypeAlias

from composer.costs.base.units import count_text
from composer.language.schema.search import FlopRungs
from composer.page.chart import (
    WIDE,
    Chart,
    ErrorScale,
    Scale,
    Span,
    accuracy_scale,
    label,
    n,
    name_width,
    path,
    scale,
    spread,
)
from search.progress.verdict import Result
from search.progress.words import named, value_text
from search.report import facts
from search.report.read import Proposal, Source
from search.store.ledger import Record

_LEFT, _RIGHT, _TOP, _BELOW = 66.0, 24.0, 44.0, 52.0
_SHORT = 60.0
"""Width of the names that stand beside curves on a phone; the legend tells baselines from the others."""
_ORDER = ("stopped", "running", "finished", "baseline", "front")
Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom."""
_MANY = 60
"""Number of marks of one kind above which they are drawn smaller and not all can be reached by Tab."""


def front(source: Source, against: str, width: float = WIDE) -> Chart:
    """Draw all measured points: the first objective against another measure, the front as a step line."""
    goals = source.state.goals
    first = goals.names[0]
    points = [
        (record, x, y)
        for record in source.shown
        if (x := facts.value_of(source, record, against)) is not None
        and (y := facts.value_of(source, record, first)) is not None
    ]
    chart = Chart(
        width,
        430,
        f"{first} against {against}",
        f"{len(points)} points; the front: "
        + "; ".join(facts.record_line(source, record) for record in source.front),
    )
    bars = [
        (*bar, (x, y)) for record, x, y in points if (bar := _bar(source, record, against, x)) is not None
    ]
    xs = [*(x for _, x, _ in points), *(x for wide, *_ in bars for x in wide)]
    ys = [*(y for *_, y in points), *(y for _, high, _ in bars for y in high)]
    log = bool(xs) and min(xs) > 0 and max(xs) > 5 * min(xs)
    across = scale(xs, _LEFT, width - _RIGHT, log)
    upwards = accuracy_scale if goals.directions[0] == "maximize" else scale
    up = upwards(ys, chart.height - _BELOW, _TOP)
    chart.below(across, up.start, _TOP, partial(value_text, against), _axis(source, against))
    by_error = ", by the logarithm of its error" if isinstance(up, ErrorScale) else ""
    chart.beside(up, _LEFT, width - _RIGHT, partial(value_text, first), _axis(source, first) + by_error)
    best = source.front
    place = {record.identity: (across(x), up(y)) for record, x, y in points}
    for (a, x, b), (low, y, high), begun in bars:
        chart.line([(across(begun[0]), up(begun[1])), (across(x), up(y))], "before")
        chart.cross((across(a), across(x), across(b)), (up(low), up(y), up(high)), "whisker")
    # with more than two objectives the front is no line in this plane
    if against in goals.names and len(goals.names) == 2 and len(best) > 1:
        less = goals.directions[goals.names.index(against)] == "minimize"
        chart.line(_stairs([place[record.identity] for record in best], less), "stairs")
    winner = source.winner
    for record, x, y in sorted(points, key=lambda point: _rank(source, point[0])):
        kind = facts.kind(source, record)
        items = [mark(kind, across(x), up(y))]
        if record is winner:
            items.append(f'<circle class="halo" cx="{n(across(x))}" cy="{n(up(y))}" r="10.5"/>')
        reachable = record.status != "stopped" or len(points) < _MANY
        chart.link(record.key, f"dot {kind}", facts.record_line(source, record), items, reachable)
    whiskers = [(across(x) - 3, up(high), across(x) + 3, up(low)) for (_, x, _), (low, _, high), _ in bars]
    _names(chart, source, [(record, *place[record.identity]) for record, *_ in points], whiskers)
    return chart


def curves(source: Source, metric: str, width: float = WIDE) -> Chart:
    """Draw a metric over training tokens, or FLOPs if rungs are in FLOPs, with the rungs marked."""
    state = source.state
    unit = "FLOPs" if isinstance(state.config.rungs, FlopRungs) else "tokens"
    lines = {record.identity: facts.curve(source, record, metric) for record in source.shown}
    shown = [record for record in source.shown if lines[record.identity]]
    chart = Chart(
        width,
        420,
        f"{facts.metric_title(metric)} over training {unit}",
        f"{len(shown)} runs; rungs at {', '.join(map(count_text, state.config.marks)) or 'none'}",
    )
    every = [point for line in lines.values() for point in line]
    alike = unit == "tokens"
    names = {record.identity: named(state, record) for record in shown if alike and _speaks(source, record)}
    if width < WIDE:
        names = {identity: name for identity, name in names.items() if name_width(name) < _SHORT}
    room = max(map(name_width, names.values()), default=0) + 16
    across = Scale(0, max((x for x, _ in every), default=1.0), _LEFT, width - max(room, _RIGHT))
    up = scale((y for _, y in every), chart.height - _BELOW, _TOP + 28)
    chart.below(across, up.start, up.end, count_text, f"training {unit}")
    chart.beside(up, _LEFT, across.end, partial(value_text, metric), "")
    chart.words(_LEFT, 14, facts.metric_title(metric))
    for number, rung in enumerate(rung for rung in state.config.marks if rung < across.high):
        # alternately higher and lower, so that neighbours do not overlap
        top = _TOP - 2 + 16 * (number % 2)
        chart.line([(across(rung), up.start), (across(rung), top + 5)], "rung")
        chart.words(across(rung), top, facts.passed(source, number), "note middle")
    for record in sorted(shown, key=lambda record: _rank(source, record)):
        kind = facts.kind(source, record)
        points = [(across(x), up(y)) for x, y in lines[record.identity]]
        items = [
            f'<path class="hit" d="{path(points)}"/>',
            f'<path class="line" d="{path(points)}"/>',
            mark(kind, *points[-1], small=True),
        ]
        reachable = record.status != "stopped" or len(shown) < _MANY
        faint = " many" if len(shown) > _MANY else ""
        chart.link(record.key, f"dot {kind}{faint}", facts.record_line(source, record), items, reachable)
    ends = [(name, up(lines[identity][-1][1])) for identity, name in names.items()]
    places = spread([y for _, y in ends], 15, up.end, up.start)
    for (name, _), y in zip(ends, places, strict=True):
        chart.words(across.end + 10, y + 4, name, "name")
    if not alike:
        # over FLOPs, curves end at different places
        last = [(record, *lines[record.identity][-1]) for record in shown]
        _names(chart, source, [(record, across(x), up(y)) for record, x, y in last])
    return chart


def history(proposals: Sequence[Proposal], width: float = WIDE) -> Chart:
    """Draw the outcomes of proposals in order, and the feasible share of the sampler's last drafts."""
    window = max(10, min(50, len(proposals) // 8))
    drawn = [proposal.drawn for proposal in proposals]
    chart = Chart(
        width,
        250,
        "feasible share of the sampler's drafts",
        f"{len(proposals)} proposals; {sum(each.infeasible for each in drawn)} of "
        f"{sum(each.own for each in drawn)} drafts of the sampler over a cap or invalid",
    )
    across = Scale(1, max(2, len(proposals)), _LEFT, width - _RIGHT)
    up = Scale(0, 1, chart.height - _BELOW - 26, 34)
    chart.below(across, up.start + 26, up.end, lambda value: f"{value:g}", "proposal")
    chart.beside(
        up, _LEFT, width - _RIGHT, percent, f"feasible among the drafts of the last {window} proposals"
    )
    shares = []
    for number in range(1, len(drawn) + 1):
        last = drawn[max(0, number - window) : number]
        own = sum(each.own for each in last)
        if own:
            shares.append((across(number), up(1 - sum(each.infeasible for each in last) / own)))
    if shares:
        chart.line(shares, "share")
    for number, proposal in enumerate(proposals, start=1):
        chart.line(
            [(across(number), up.start + 8), (across(number), up.start + 20)], f"{proposal.outcome}-tick"
        )
    return chart


def _bar(source: Source, record: Record, against: str, x: float) -> tuple[Span, Span] | None:
    """Return mean and spread over fresh seeds in both directions (low end, middle, high end), or None."""
    by_metric = {each.metric: each for each in source.verdicts.results(record)}
    first = by_metric.get(source.state.goals.names[0])
    if first is None or not any(each.seeds for each in by_metric.values()):
        return None
    return _span(by_metric[against]) if against in by_metric else (x, x, x), _span(first)


def _span(result: Result) -> Span:
    part = result.spread or 0.0
    return result.value - part, result.value, result.value + part


def _rank(source: Source, record: Record) -> int:
    names = facts.kind(source, record).split()
    return max(_ORDER.index(name) for name in names if name in _ORDER) if set(names) & set(_ORDER) else 0


def _speaks(source: Source, record: Record) -> bool:
    return bool({"front", "baseline"} & set(facts.kind(source, record).split()))


def mark(kind: str, x: float, y: float, small: bool = False) -> str:
    """Draw a mark: a diamond for a baseline, a cross for a crash, a disc for a trial, small if stopped."""
    names = kind.split()
    if "baseline" in names:
        r = 5.0 if small else 7.5
        corners = f"{n(x)},{n(y - r)} {n(x + r)},{n(y)} {n(x)},{n(y + r)} {n(x - r)},{n(y)}"
        return f'<polygon class="mark" points="{corners}"/>'
    radius = 3.4 if "stopped" in names else 6.5 if "front" in names else 5.2
    return f'<circle class="mark" cx="{n(x)}" cy="{n(y)}" r="{n(min(radius, 3.6) if small else radius)}"/>'


def _stairs(corners: Sequence[tuple[float, float]], less: bool) -> list[tuple[float, float]]:
    """Return the step line of a front; `less` says whether smaller is better on the horizontal axis."""
    ordered = sorted(corners)
    steps = [ordered[0]]
    for before, after in pairwise(ordered):
        steps += [(after[0], before[1]) if less else (before[0], after[1]), after]
    return steps


def _names(
    chart: Chart, source: Source, points: Sequence[tuple[Record, float, float]], lines: Sequence[Box] = ()
) -> None:
    """Label front and baselines where there is room, beside lines rather than on them."""
    taken = [(x - 10, y - 10, x + 10, y + 10) for _, x, y in points]
    for record, x, y in points:
        if not _speaks(source, record):
            continue
        text = named(source.state, record) + (", knee" if record is source.knee else "")
        wide = name_width(text)
        sides = [(x - 12 - wide, y - 8), (x + 12, y + 16), (x + 12, y - 8), (x - 12 - wide, y + 16)]
        spots = [*sides, (x - wide / 2, y - 16), (x - wide / 2, y + 26)]
        spots += [(x - 24 - wide, y - 8), (x + 24, y - 8)]
        boxes = [(left, base - 11, left + wide, base + 3) for left, base in spots]
        inside = [box for box in boxes if box[0] > _LEFT and box[2] < chart.width and not _meets(box, taken)]
        if inside:
            box = next((box for box in inside if not _meets(box, lines)), inside[0])
            taken.append(box)
            chart.items.append(label(box[0], box[3] - 3, text, "name"))


def _meets(box: Box, others: Sequence[Box]) -> bool:
    return any(_overlap(box, other) for other in others)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _axis(source: Source, name: str) -> str:
    objectives = [goal for goal in source.state.goals.objectives if goal.metric == name]
    return f"{name} ({objectives[0].direction})" if objectives else name


def percent(value: float) -> str:
    """Format a share."""
    return f"{100 * value:.3g} %"
