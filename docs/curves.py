"""What replayed searches found against the tokens they spent: kept as CSV, told as tables, drawn."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from composer.costs.base.units import count_text
from composer.page.chart import Chart, Scale, path
from composer.page.theme import LIGHT
from search.compare.permutation_test import permutation_test

BUDGETS = (5, 10, 20, 40)
"""Training tokens that a search may spend, in points trained in full."""


@dataclass(frozen=True)
class Curve:
    """What one search found.

    Attributes:
        budget: what it was given, in points trained in full.
        trials: how many points were begun, and `ended` how many of these were trained in full.
        steps: what was spent, in points trained in full, and the best accuracy among the points trained in
            full by then; where it rose.
    """

    arm: str
    seed: int
    budget: int
    trials: int
    ended: int
    steps: tuple[tuple[float, float], ...]

    def at(self, budget: float) -> float:
        """Return the best accuracy found for so much; nan where there was none yet."""
        return max((best for spent, best in self.steps if spent <= budget), default=float("nan"))


_HEAD = ("arm", "seed", "budget", "trials", "ended", "spent", "accuracy")


def curves_text(curves: Iterable[Curve]) -> str:
    """Write curves as CSV: a row for each step."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_HEAD)
    for curve in curves:
        for spent, best in curve.steps:
            head = (curve.arm, curve.seed, curve.budget, curve.trials, curve.ended)
            writer.writerow([*head, f"{spent:.6g}", f"{best:.6g}"])
    return out.getvalue()


def read_curves(path: Path) -> list[Curve]:
    """Read curves from CSV; none where there is no file."""
    curves: dict[tuple[str, str], Curve] = {}
    if not path.exists():
        return []
    with path.open(newline="") as file:
        for cells in csv.DictReader(file):
            key = cells["arm"], cells["seed"]
            before = curves[key].steps if key in curves else ()
            steps = (*before, (float(cells["spent"]), float(cells["accuracy"])))
            budget, trials, ended = (int(cells[name]) for name in ("budget", "trials", "ended"))
            curves[key] = Curve(cells["arm"], int(cells["seed"]), budget, trials, ended, steps)
    return list(curves.values())


def by_arm(curves: Iterable[Curve]) -> dict[str, list[Curve]]:
    """Group curves."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.arm, []).append(curve)
    return groups


def best_table(curves: Iterable[Curve], arms: Sequence[str]) -> Iterator[str]:
    """Yield what arms found for each budget, mean and standard deviation over seeds, as Markdown."""
    groups = by_arm(curves)
    yield from _head(["search", "seeds", *map(str, BUDGETS), "points begun", "in full"])
    for arm in arms:
        group = groups.get(arm, [])
        if group:
            counts = [fmean(curve.trials for curve in group), fmean(curve.ended for curve in group)]
            cells = [_best_text(group, budget) for budget in BUDGETS]
            yield _row([arm, str(len(group)), *cells, *(f"{count:.0f}" for count in counts)])


def rival_table(curves: Iterable[Curve], pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield what the first of each pair of arms found beyond the second, as Markdown.

    Each cell holds the difference of the means, for how many seeds the first was better and worse, and the
    p-value of a permutation test.
    """
    groups = by_arm(curves)
    yield from _head(["search", "against", *map(str, BUDGETS)])
    for arm, rival in pairs:
        if arm in groups and rival in groups:
            yield _row([arm, rival, *(_beyond(groups[arm], groups[rival], budget) for budget in BUDGETS)])


def live_table(lives: Iterable[Curve], curves: Sequence[Curve]) -> Iterator[str]:
    """Yield what searches found whose points were trained anew, beside the replays of the same seeds."""
    yield from _head(["search", "seed", "budget", "points begun", "in full", "best, live", "best, replayed"])
    for live in lives:
        again = next(curve for curve in curves if (curve.arm, curve.seed) == (live.arm, live.seed))
        counts = (live.seed, live.budget, live.trials, live.ended)
        best = (curve.at(live.budget) for curve in (live, again))
        yield _row([live.arm, *map(str, counts), *(f"{value:.4f}" for value in best)])


def _best_text(group: Sequence[Curve], budget: int) -> str:
    if budget > group[0].budget:
        return ""
    values = [curve.at(budget) for curve in group]
    return f"{fmean(values):.3f} ± {stdev(values):.3f}"


def _beyond(group: Sequence[Curve], rivals: Sequence[Curve], budget: int) -> str:
    if budget > group[0].budget:
        return ""
    seeds = {curve.seed for curve in group}
    rival = {curve.seed: curve.at(budget) for curve in rivals if curve.seed in seeds}
    own = [curve.at(budget) for curve in group]
    pairs = [(value, rival[curve.seed]) for curve, value in zip(group, own, strict=True)]
    better, worse = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    p = permutation_test(own, [*rival.values()])
    doubt = "< 0.001" if p < 0.001 else f"{p:.2g}"
    return f"{fmean(own) - fmean(rival.values()):+.3f}, {better} : {worse}, p {doubt}"


def _head(cells: list[str]) -> Iterator[str]:
    yield _row(cells)
    yield _row(["---", *["---:"] * (len(cells) - 1)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


_WIDE, _HIGH = 390.0, 268.0


def figure(curves: Iterable[Curve], arms: Sequence[str], rival: str, plain: str, tokens: int) -> Chart:
    """Draw arms in a picture each: means over seeds, and a standard deviation above and below.

    Args:
        rival: the arm that stands in each picture, too; and `plain` another, as a dashed line.
        tokens: what a point trained in full takes.
    """
    groups = by_arm(curves)
    shown = [arm for arm in arms if arm in groups]
    text = "; ".join(f"{arm} {_best_text(groups[arm], BUDGETS[1])}" for arm in (*shown, rival, plain))
    chart = Chart(
        2 * _WIDE,
        _HIGH * -(-len(shown) // 2),
        "Best accuracy found against training tokens spent",
        f"Found for the tokens of {BUDGETS[1]} points trained in full: {text}",
    )
    for place, arm in enumerate(shown):
        left, top = _WIDE * (place % 2), _HIGH * (place // 2)
        across = Scale(0, BUDGETS[-1] * tokens, left + 62, left + _WIDE - 20)
        up = Scale(0.86, 1.0, top + _HIGH - 52, top + 44)
        chart.below(across, up.start, up.end, count_text, "training tokens")
        chart.beside(up, across.start, across.end, lambda value: f"{value:.2f}", "")
        chart.words(across.start, top + 22, arm, "name")
        named = f"grey: {rival}; dashed: {plain}"
        chart.words(across.end, top + 22, named, "note end")
        for other, colour, dash in ((plain, "orange", True), (rival, "soft", False), (arm, "blue", False)):
            chart.items += _drawn(groups[other], tokens, across, up, colour, dash)
    return chart


def _drawn(
    group: Sequence[Curve], tokens: int, across: Scale, up: Scale, colour: str, dashed: bool
) -> Iterator[str]:
    """Draw one arm; a dashed line has no band."""
    line, over, under = [], [], []
    for spent in (quarter / 4 for quarter in range(4, 4 * group[0].budget + 1)):
        values = [curve.at(spent) for curve in group]
        mean, deviation = fmean(values), stdev(values)
        line.append((across(spent * tokens), up(mean)))
        over.append((across(spent * tokens), up(min(mean + deviation, up.high))))
        under.append((across(spent * tokens), up(max(mean - deviation, up.low))))
    if not dashed:
        yield f'<path d="{path([*over, *reversed(under)])}Z" fill="{LIGHT[colour]}" opacity="0.18"/>'
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    yield f'<path d="{path(line)}" fill="none" stroke="{LIGHT[colour]}" stroke-width="2"{dash}/>'
