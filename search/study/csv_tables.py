"""The tables of a study as CSV has them: plain numbers in full, one fact for each column.

Scores have the name and the unit that they have everywhere: loss is in nats, accuracies are shares. What is
not known, and an end of an interval that is open, is empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, median, stdev
from typing import TypeAlias

from search.study.intervals import Estimate
from search.study.load import StudyArm
from search.study.plan import Results
from search.study.scaling import Fit
from search.study.stability import Stability
from search.study.verdicts import Comparison, Factor, Verdict

Data: TypeAlias = tuple[Sequence[str], Sequence[Sequence[object]]]
"""The head and the rows of a table."""

_ARM = ("arm", "size")
_FACTOR = ("factor", "factor_low", "factor_high")


def verdict_data(judged: Iterable[Verdict]) -> Data:
    """Return the claims with their verdicts."""
    head = [*_ARM, "against", "cost", "score", "claimed_factor", "verdict", *_FACTOR]
    head += ["seeds", "p", "p_holm", "seeds_needed", "note"]
    rows = [
        [
            *_arm(each.factor.arm),
            each.factor.against.name,
            each.claim.cost,
            each.claim.metric,
            each.claim.factor,
            each.judgement,
            *_factor(each.factor),
            each.factor.estimate.seeds if each.factor.estimate else 0,
            each.p,
            each.adjusted,
            _known(each.seeds),
            each.why,
        ]
        for each in judged
    ]
    return head, rows


def results_data(results: Results, metrics: Sequence[str]) -> Data:
    """Return the scores of every arm at every budget, over fresh seeds."""
    numbers = [name for metric in metrics for name in (f"{metric}_mean", f"{metric}_sd")]
    head = [*_ARM, "tokens", "rate", "seeds", *numbers, "flops", "seconds_median"]
    rows: list[list[object]] = []
    for arm in results.plan.study.arms:
        for budget in results.plan.config.budgets:
            if runs := list(results.fresh(arm, budget).values()):
                scores = [[row.metrics[name] for row in runs if name in row.metrics] for name in metrics]
                pairs = [number for each in scores for number in _mean_and_spread(each)]
                times = [row.seconds for row in runs if row.seconds]
                costs = [runs[0].flops, median(times) if times else ""]
                rows.append([*_arm(arm), budget, _known(results.rate(arm)), len(runs), *pairs, *costs])
    return head, rows


def factor_data(factors: Iterable[Factor]) -> Data:
    """Return how many times less each arm costs than the reference at an equal score."""
    head = [*_ARM, "against", "cost", "score", *_FACTOR]
    rows = [[*_arm(each.arm), each.against.name, each.cost, each.metric, *_factor(each)] for each in factors]
    return head, rows


def comparison_data(comparisons: Iterable[Comparison], metric: str) -> Data:
    """Return the differences from the reference at the largest budget, with tests."""
    head = [*_ARM, "against", "tokens", "score", "seeds", "difference", "difference_low", "difference_high"]
    head += ["p", "p_holm", "p_permutation"]
    rows = [
        [
            *_arm(each.arm),
            each.reference.name,
            each.budget,
            metric,
            each.difference.seeds,
            each.difference.value,
            *map(_finite, each.difference.interval()),
            *map(_known, (each.p, each.adjusted, each.permuted)),
        ]
        for each in comparisons
        if each.difference is not None
    ]
    return head, rows


def stability_data(stabilities: Iterable[Stability]) -> Data:
    """Return how alike the arms rank at different budgets and sizes."""
    head = ["tokens", "size", "other_tokens", "other_size", "arms", "tau"]
    return head, [[*each.one, *each.other, each.arms, each.tau] for each in stabilities]


def rate_data(results: Results) -> Data:
    """Return the score of every arm at every learning rate, from the runs that rates are chosen by."""
    config, plan = results.plan.config, results.plan
    budget, rows = config.budgets[-1], []
    for arm in plan.study.arms:
        for rate in config.rates:
            if (row := results.row(arm, rate, plan.seed, budget)) is not None:
                value = "" if row.crashed else row.metrics[config.measure]
                chosen = int(rate == results.rate(arm))
                rows.append([*_arm(arm), rate, row.seed, budget, value, int(bool(row.crashed)), chosen])
    return [*_ARM, "rate", "seed", "tokens", config.measure, "crashed", "chosen"], rows


def arm_data(arms: Sequence[StudyArm], measures: Sequence[str]) -> Data:
    """Return the costs of all arms against those of the base, in percent."""
    known = [{each.measure: each.percent for each in arm.residuals} for arm in arms]
    rows = [
        [*_arm(arm), *(_known(costs.get(name)) for name in measures), arm.distance, arm.changes]
        for arm, costs in zip(arms, known, strict=True)
    ]
    return [*_ARM, *(f"{name}_percent" for name in measures), "distance", "changed_sizes"], rows


def law_data(fitted: tuple[Fit, Estimate]) -> Data:
    """Return the constants of the scaling law, of which phi has an interval."""
    law, phi = fitted
    named = {"E": law.floor, "A": law.a, "B": law.b, "alpha": law.alpha, "beta": law.beta}
    rows: list[list[object]] = [["phi", law.phi, *map(_finite, phi.interval())]]
    rows += [[name, value, "", ""] for name, value in named.items()]
    return ["constant", "value", "low", "high"], [*rows, ["relative_error", law.error, "", ""]]


def crash_data(results: Results) -> Data:
    """Return the runs that could not be trained."""
    crashed = results.crashed()
    rows = [[row.arm, row.size, row.rate, row.seed, row.budget, row.crashed] for row in crashed]
    return [*_ARM, "rate", "seed", "tokens", "reason"], rows


def _arm(arm: StudyArm) -> tuple[str, str]:
    return arm.name, arm.size


def _factor(factor: Factor) -> Iterator[object]:
    """Yield a factor and its interval; nothing of one that is not known."""
    low, high = factor.interval()
    yield _known(factor.value)
    yield low or ""
    yield _finite(high)


def _finite(value: float) -> object:
    return value if math.isfinite(value) else ""


def _known(value: object) -> object:
    return "" if value is None else value


def _mean_and_spread(values: Sequence[float]) -> list[object]:
    return [fmean(values) if values else "", stdev(values) if len(values) > 1 else ""]
