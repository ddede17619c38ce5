"""The results of a study judged: factors at equal scores, tests against a reference, verdicts on claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median
from typing import Literal, TypeAlias

from search.compare.permutation_test import permutation_test
from search.study.config import Claim, lower_is_better
from search.study.curves import Curve, log_factor
from search.study.intervals import LEVEL, MOST_SEEDS, Estimate, bootstrap, holm
from search.study.load import StudyArm
from search.study.plan import Results, score

Judgement: TypeAlias = Literal["supported", "not supported", "undecided"]


@dataclass(frozen=True)
class Factor:
    """How many times less an arm costs than another at an equal score.

    Attributes:
        estimate: of the logarithm; None without a seed that both have at all budgets.
        least, most: the smallest and largest logarithm that the budgets can show.
        apart: whether the score distinguished the arms; False if both have it at their smallest budget.
    """

    arm: StudyArm
    against: StudyArm
    cost: str
    metric: str
    estimate: Estimate | None = None
    least: float = -math.inf
    most: float = math.inf
    apart: bool = True

    @property
    def value(self) -> float | None:
        """The factor."""
        return None if self.estimate is None or not self.apart else math.exp(self.estimate.value)

    def interval(self) -> tuple[float, float]:
        """Return the interval of the factor; an end beyond what the budgets can show is open."""
        if self.estimate is None or not self.apart:
            return 0.0, math.inf
        low, high = self.estimate.interval()
        low = -math.inf if low <= self.least else min(low, self.most)
        high = math.inf if high >= self.most else max(high, self.least)
        return math.exp(low) if low > -math.inf else 0.0, math.exp(high) if high < math.inf else math.inf


@dataclass(frozen=True)
class Verdict:
    """A claim, judged.

    Attributes:
        p: two-sided, of the claimed factor being the true one; `adjusted` for the number of claims (Holm).
        seeds: how many would decide it if factor and spread stayed as they are; None if over `MOST_SEEDS`.
        why: what else there is to say.
    """

    claim: Claim
    factor: Factor
    judgement: Judgement
    p: float = 1.0
    adjusted: float = 1.0
    seeds: int | None = None
    why: str = ""


@dataclass(frozen=True)
class Comparison:
    """The score of an arm at one budget against that of the reference.

    Attributes:
        difference: of the means over seeds that both have; above 0 the arm is better.
        p: of the difference being 0, two-sided; `adjusted` for the number of tests (Holm).
        permuted: of an exact permutation test over all seeds of both, which assumes no distribution.
    """

    arm: StudyArm
    reference: StudyArm
    budget: int
    difference: Estimate | None
    p: float | None = None
    adjusted: float | None = None
    permuted: float | None = None


def factor(results: Results, arm: StudyArm, against: StudyArm, cost: str, metric: str) -> Factor:
    """Estimate how many times less an arm costs than another at an equal score, over fresh seeds."""
    one, other = (_by_seed(results, each, cost, metric) for each in (arm, against))
    if not any(seed in other for seed in one):
        return Factor(arm, against, cost, metric)

    def statistic(mine: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]]) -> float:
        return log_factor(_curve(mine), _curve(theirs))

    both = [seed for seed in one if seed in other]
    mine, theirs = (_curve([each[seed] for seed in both]).rising() for each in (one, other))
    level = min(mine.scores[-1], theirs.scores[-1])
    return Factor(
        arm,
        against,
        cost,
        metric,
        bootstrap(one, other, statistic),
        math.log(theirs.costs[0] / mine.costs[-1]),
        math.log(theirs.costs[-1] / mine.costs[0]),
        level > max(mine.scores[0], theirs.scores[0]) or mine.scores[0] != theirs.scores[0],
    )


def verdicts(results: Results) -> list[Verdict]:
    """Judge every claim at every size."""
    study = results.plan.study
    arms = {(arm.name, arm.size): arm for arm in study.arms}
    judged = [
        _measured(
            claim, factor(results, arms[claim.arm, size], arms[claim.against, size], claim.cost, claim.metric)
        )
        for size in study.sizes
        for claim in study.config.measured_claims
    ]
    adjusted = holm([verdict.p for verdict in judged])
    return [_judged(verdict, p) for verdict, p in zip(judged, adjusted, strict=True)]


def comparisons(results: Results) -> list[Comparison]:
    """Compare every arm with the reference at the largest budget, at every size."""
    study, config = results.plan.study, results.plan.config
    budget, metric = config.budgets[-1], config.measure
    compared: list[Comparison] = []
    for size in study.sizes:
        arms = [arm for arm in study.arms if arm.size == size]
        reference = next(arm for arm in arms if arm.name == study.reference)
        for arm in arms:
            if arm is not reference:
                compared.append(_compared(results, arm, reference, budget, metric))
    tested = [i for i, each in enumerate(compared) if each.p is not None]
    for i, p in zip(tested, holm([compared[i].p or 0.0 for i in tested]), strict=True):
        compared[i] = replace(compared[i], adjusted=p)
    return compared


def _compared(results: Results, arm: StudyArm, reference: StudyArm, budget: int, metric: str) -> Comparison:
    one, other = (
        {seed: [score(row, metric)] for seed, row in results.fresh(each, budget).items()}
        for each in (arm, reference)
    )
    if not any(seed in other for seed in one):
        return Comparison(arm, reference, budget, None)
    estimate = bootstrap(one, other, lambda a, b: fmean(x for (x,) in a) - fmean(x for (x,) in b))
    if estimate.seeds < 2:
        return Comparison(arm, reference, budget, estimate)
    permuted = permutation_test(*([x for (x,) in each.values()] for each in (one, other)))
    return Comparison(arm, reference, budget, estimate, estimate.p(0), permuted=permuted)


def _by_seed(results: Results, arm: StudyArm, cost: str, metric: str) -> dict[int, list[float]]:
    """Return, by fresh seed with finite scores at all budgets, the costs and then the scores."""
    budgets = results.plan.config.budgets
    rows = [results.fresh(arm, budget) for budget in budgets]
    by_seed = {}
    for seed in rows[0]:
        mine = [each[seed] for each in rows if seed in each]
        numbers = [*(row.cost(cost) for row in mine), *(score(row, metric) for row in mine)]
        if len(mine) == len(budgets) and all(map(math.isfinite, numbers)) and min(numbers[: len(mine)]) > 0:
            by_seed[seed] = numbers
    return by_seed


def _curve(seeds: Sequence[Sequence[float]]) -> Curve:
    columns = list(zip(*seeds, strict=True))
    half = len(columns) // 2
    # costs by their median: the same for all seeds but for times, which a busy machine makes far too long
    return Curve([median(each) for each in columns[:half]], [fmean(each) for each in columns[half:]])


def _measured(claim: Claim, factor: Factor) -> Verdict:
    if factor.estimate is None:
        return Verdict(claim, factor, "undecided", why="no seed of both arms has all budgets")
    if not factor.apart:
        why = "both arms have the score at their smallest budget: add smaller budgets or a harder task"
        return Verdict(claim, factor, "undecided", why=why)
    truth = math.log(claim.factor)
    if not factor.least < truth < factor.most:
        why = "these budgets cannot show such a factor: add smaller or larger ones"
        return Verdict(claim, factor, "undecided", why=why)
    return Verdict(claim, factor, "undecided", factor.estimate.p(truth))


def _judged(verdict: Verdict, adjusted: float) -> Verdict:
    estimate, truth = verdict.factor.estimate, math.log(verdict.claim.factor)
    if verdict.why or estimate is None:
        return verdict
    if adjusted <= LEVEL:
        above = estimate.value > truth
        return replace(verdict, adjusted=adjusted, judgement="supported" if above else "not supported")
    if estimate.seeds < 2:
        why = "one seed has no spread"
        return replace(verdict, adjusted=adjusted, why=why)
    share = LEVEL * verdict.p / adjusted if adjusted else LEVEL
    seeds = estimate.seeds_for(truth, share)
    why = f"about {seeds} seeds would decide it" if seeds else f"more than {MOST_SEEDS} seeds would be needed"
    return replace(verdict, adjusted=adjusted, seeds=seeds, why=why)


def better(metric: str) -> str:
    """Say which way a held-out score is better."""
    return "lower is better" if lower_is_better(metric) else "higher is better"
