"""The tables of a study's report, as text cells; the page, Markdown and CSV are written from them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from composer.costs.base.units import count_text, duration
from composer.costs.matching.residuals import percent
from search.study.config import COST_NAMES, COSTS
from search.study.csv_tables import (
    Data,
    arm_data,
    comparison_data,
    crash_data,
    factor_data,
    law_data,
    rate_data,
    results_data,
    stability_data,
    verdict_data,
)
from search.study.plan import Results
from search.study.rows import Row
from search.study.scaling import fitted, law_rows
from search.study.stability import Stability, stability
from search.study.verdicts import Comparison, Factor, Verdict, better, comparisons, factor, verdicts

UNITS = {"tokens": "training tokens", "flops": "training FLOPs", "seconds": "seconds"}


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: of its file and its anchor.
        words: the columns of words; the others are numbers.
        note: how it is made, below it.
        data: its head and rows as CSV has them, plain numbers.
    """

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    data: Data
    words: tuple[int, ...] = (0,)
    note: str = ""

    def markdown(self) -> str:
        """Write it in Markdown."""
        rule = [("---" if i in self.words else "---:") for i in range(len(self.head))]
        rows = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in self.rows]
        lines = [f"| {' | '.join(cells)} |" for cells in (self.head, rule, *rows)]
        return "\n".join([f"### {self.title}", "", *lines, *(["", self.note] if self.note else [])])

    def csv(self) -> str:
        """Write it as CSV."""
        out = io.StringIO()
        head, rows = self.data
        csv.writer(out, lineterminator="\n").writerows([head, *rows])
        return out.getvalue()


def tables(results: Results) -> Iterator[Table]:
    """Yield the tables that say something, the verdicts first."""
    judged = verdicts(results)
    if judged:
        yield verdict_table(judged)
    yield results_table(results)
    if len(results.plan.config.arms) > 1:
        yield factor_table(results)
        yield comparison_table(comparisons(results), results.plan.config.measure)
        if stabilities := list(stability(results)):
            yield stability_table(stabilities)
    if (law := fitted(results)) is not None:
        note = (
            "L = E + A (N_once + r^phi N_rec)^-alpha + B D^-beta (arXiv 2604.21106), over all arms, sizes "
            "and budgets, with active parameters: N_rec of recurrent stages, of r steps. phi is what a "
            "recurrent step is worth: 1 as much as a layer with weights of its own, 0 nothing."
        )
        head = ["constant", "value", "95 % interval"]
        yield Table("scaling", "Scaling", head, list(law_rows(law)), law_data(law), note=note)
    yield rate_table(results)
    yield arm_table(results)
    if crashed := results.crashed():
        rows = [
            [_named(row), f"{row.rate:g}", str(row.seed), count_text(row.budget), row.crashed]
            for row in crashed
        ]
        yield Table(
            "crashed",
            "Runs that could not be trained",
            ["arm", "rate", "seed", "tokens", "why"],
            rows,
            crash_data(results),
            (0, 4),
        )


def verdict_table(judged: Sequence[Verdict]) -> Table:
    """Return the claims with their verdicts."""
    rows = [
        [
            _sized(str(each.claim), each.factor.arm.size),
            each.judgement,
            *factor_cells(each.factor),
            "" if each.factor.estimate is None else str(each.factor.estimate.seeds),
            f"{each.adjusted:.3f}",
            each.why,
        ]
        for each in judged
    ]
    note = (
        "The factor says how many times less the first arm needs: at 0.5 it needs twice as much. A claim is "
        "supported if its factor is above the claimed one, not supported if it is below, at an "
        "error rate of 5 % over all claims together (Holm). The interval is of 95 %, for this claim alone."
    )
    head = ["claim", "verdict", "factor", "95 % interval", "seeds", "p (Holm)", "note"]
    return Table("verdicts", "Claims", head, rows, verdict_data(judged), (0, 1, 6), note)


def factor_cells(factor: Factor) -> tuple[str, str]:
    """Return a factor and its interval as text."""
    if factor.value is None:
        return "", ""
    low, high = factor.interval()
    text = f"{factor.value:.2f}"
    if factor.estimate is not None and factor.estimate.value >= factor.most:
        text = f"above {math.exp(factor.most):.2f}"
    if factor.estimate is not None and factor.estimate.value <= factor.least:
        text = f"below {math.exp(factor.least):.2f}"
    if low == 0 and high == math.inf:
        return text, "unbounded"
    if low == 0:
        return text, f"below {high:.2f}"
    return text, f"{low:.2f} to {high:.2f}" if high < math.inf else f"above {low:.2f}"


def results_table(results: Results) -> Table:
    """Return the scores of every arm at every budget, over fresh seeds."""
    config = results.plan.config
    metrics = list(dict.fromkeys([config.measure, "loss"]))
    rows = []
    for arm in results.plan.study.arms:
        for budget in config.budgets:
            runs = list(results.fresh(arm, budget).values())
            if runs:
                cells = [
                    spread_text([row.metrics[name] for row in runs if name in row.metrics])
                    for name in metrics
                ]
                seconds = [row.seconds for row in runs if row.seconds]
                costs = [count_text(runs[0].flops), duration(median(seconds)) if seconds else ""]
                rate = results.rate(arm)
                rows.append([arm.title, count_text(budget), *cells, f"{rate:g}", str(len(runs)), *costs])
    head = ["arm", "tokens", *metrics, "rate", "seeds", "FLOPs", "time"]
    note = (
        "Means and standard deviations over fresh seeds, at the best rate of each arm; of times the median. "
        "They hold for the machines that trained, with whatever else ran there."
    )
    return Table("results", "Results", head, rows, results_data(results, metrics), note=note)


def factor_table(results: Results) -> Table:
    """Return how many times less every arm costs than the reference at an equal score."""
    study, measure = results.plan.study, results.plan.config.measure
    kinds = [(cost, metric) for metric in dict.fromkeys([measure, "loss"]) for cost in COSTS]
    rows: list[list[str]] = []
    every: list[Factor] = []
    for size in study.sizes:
        arms = [arm for arm in study.arms if arm.size == size]
        reference = next(arm for arm in arms if arm.name == study.reference)
        for arm in arms:
            if arm is not reference:
                factors = [factor(results, arm, reference, *kind) for kind in kinds]
                every += factors
                cells_of = [factor_cells(each) for each in factors]
                cells = [f"{value} ({interval})" if value else "" for value, interval in cells_of]
                rows += [[arm.title, *cells]] if any(cells) else []
    head = ["arm", *(f"{COST_NAMES[cost]} to {metric}" for cost, metric in kinds)]
    note = (
        f"How many times less each arm needs than {study.reference} for the highest score that both reach, "
        "with 95 % intervals; above 1 the arm is better. An interval is open, or unbounded, where the "
        "budgets or the spread between seeds cannot show its end. Curves go through the means at the "
        "budgets, on a logarithmic axis; intervals are from a bootstrap over seeds, with Student's t."
    )
    title = f"Cost of an equal score, against {study.reference}"
    return Table("factors", title, head, rows, factor_data(every), note=note)


def comparison_table(comparisons: Sequence[Comparison], metric: str) -> Table:
    """Return the differences from the reference at the largest budget, with tests."""
    rows = []
    for each in comparisons:
        if each.difference is not None:
            low, high = each.difference.interval()
            interval = "" if math.isinf(high) else f"{low:+.4f} to {high:+.4f}"
            values = (each.p, each.adjusted, each.permuted)
            p_values = ["" if value is None else f"{value:.3f}" for value in values]
            seeds, difference = str(each.difference.seeds), f"{each.difference.value:+.4f}"
            rows.append([each.arm.title, seeds, difference, interval, *p_values])
    head = ["arm", "seeds", "difference", "95 % interval", "p", "p (Holm)", "p (permutation)"]
    title = (
        f"{metric.capitalize()} at the largest budget, against {comparisons[0].reference.name}"
        if comparisons
        else metric
    )
    note = (
        f"Above 0 the arm is better ({better(metric)}). Differences, intervals and p are paired by seed, by "
        "the bootstrap and Student's t; Holm corrects p for the number of arms. The exact permutation test "
        "assumes no distribution, and cannot come below 0.1 with three seeds of both and 0.029 with four."
    )
    return Table("tests", title, head, rows, comparison_data(comparisons, metric), note=note)


def stability_table(stabilities: Sequence[Stability]) -> Table:
    """Return how alike the arms rank at different budgets and sizes."""
    rows = [
        [
            *(
                size if each.one[1] != each.other[1] else _sized(count_text(budget), size)
                for budget, size in (each.one, each.other)
            ),
            str(each.arms),
            f"{each.tau:.2f}",
        ]
        for each in stabilities
    ]
    note = "Kendall's tau-b of the arms' mean scores; 1 if they rank alike, 0 if by chance."
    head = ["from", "to", "arms", "tau"]
    return Table("ranks", "Rank stability", head, rows, stability_data(stabilities), (0, 1), note)


def rate_table(results: Results) -> Table:
    """Return the score of every arm at every rate, from the runs that rates are chosen by."""
    config, plan = results.plan.config, results.plan
    rows = []
    for arm in plan.study.arms:
        tried = [results.row(arm, rate, plan.seed, config.budgets[-1]) for rate in config.rates]
        chosen = results.rate(arm)
        cells = [_score_text(row, config.measure) for row in tried]
        rows.append([arm.title, *cells, "" if chosen is None else f"{chosen:g}"])
    at = f"{config.measure.capitalize()} at {count_text(config.budgets[-1])} tokens"
    note = f"{at}, with one seed, which is not used again."
    best = [results.rate(arm) for arm in plan.study.arms]
    edges = [f"{rate:g}" for rate in dict.fromkeys((config.rates[0], config.rates[-1])) if rate in best]
    if edges:
        verb = "are" if len(edges) > 1 else "is"
        note += (
            f" {' and '.join(edges)} {verb} best for some arms and at the edge of the grid: add rates beyond."
        )
    head = ["arm", *(f"{rate:g}" for rate in config.rates), "best"]
    return Table("rates", "Learning rates", head, rows, rate_data(results), note=note)


def arm_table(results: Results) -> Table:
    """Return the costs of all arms against those of the base, and how their shapes were changed for it."""
    arms = results.plan.study.arms
    measures = list(dict.fromkeys(r.measure for arm in arms for r in arm.residuals))
    rows = []
    for arm in arms:
        known = {residual.measure: percent(residual.percent) for residual in arm.residuals}
        rows.append(
            [arm.title, *(known.get(name, "") for name in measures), f"{arm.distance:.2f}", arm.changes]
        )
    head = ["arm", *measures, "distance", "changed sizes"]
    note = (
        f"Costs relative to {results.plan.config.base}; changed sizes and the distance are from the shape "
        "that each arm was derived with: doubling the width, the heads, the head size, the active experts or "
        "the hidden size counts 1, the number of experts 1/4."
    )
    return Table("arms", "Arms", head, rows, arm_data(arms, measures), (0, len(head) - 1), note)


def spread_text(values: Sequence[float]) -> str:
    """Return a mean with its standard deviation."""
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else ""
    return f"{fmean(values):.4f} ± {stdev(values):.4f}"


def _score_text(row: Row | None, metric: str) -> str:
    if row is None:
        return ""
    return "crashed" if row.crashed else f"{row.metrics[metric]:.4f}"


def _sized(text: str, size: str) -> str:
    return f"{text}, {size}" if size else text


def _named(row: Row) -> str:
    return f"{row.arm} {row.size}".strip()
