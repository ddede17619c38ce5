"""Asynchronous successive halving (arXiv 1810.05934): which candidates continue at a rung, decided on
arrival.

No candidate waits for others. It is ranked among those that have reached the rung so far, itself included: by
non-dominated front, and within a front by the first objective that training measures.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from composer.language.schema.search import FlopRungs
from composer.language.schema.spec import Spec
from search.compare.rung_check import out_of_use
from search.objectives import Goals, Values, dominates
from search.store.ledger import Record, Seen, Status


def goes_on(own: Values, others: Sequence[Values], keep: float, measured: int = 0) -> bool:
    """Decide whether a candidate continues beyond a rung.

    Args:
        own: its values at the rung, larger is better in each.
        others: the values at this rung of all candidates that reached it before.
        keep: the share that continues, above 0 and at most 1.
        measured: the index of the objective that ranks within a front.

    Returns:
        Whether fewer than `ceil(keep * n)` of the n candidates rank ahead of it. Candidates of equal rank
        continue together, and the best in the measured objective always continues. The cheapest need not:
        its cost is the same at every rung, so it is always on the first front.
    """
    everyone = [own, *others]
    ranks = [(front, -values[measured]) for front, values in zip(fronts(everyone), everyone, strict=True)]
    return sum(rank < ranks[0] for rank in ranks) < math.ceil(keep * len(everyone))


def status_after(record: Record, records: Iterable[Record], goals: Goals, keep: float, end: bool) -> Status:
    """Return the status of a record after the milestone it has just reached; only trials are stopped."""
    if end:
        return "finished"
    stops = record.role == "trial" and not holds(record, records, goals, keep)
    return "stopped" if stops else "running"


def holds(record: Record, records: Iterable[Record], goals: Goals, keep: float) -> bool:
    """Decide whether a record continues beyond the rung it has just reached.

    It is ranked among those that reached it before and those whose whole training was shorter. At a rung
    whose ranking does not predict the final one, every trial continues; this is noted with what was measured
    there.
    """
    rung = len(record.seen) - 1
    others = [other for other in records if other is not record]
    bound = out_of_use(others, rung, goals)
    if bound is not None:
        record.seen[rung].tau_bound = bound
        return True
    own = goals.ascending(record.seen[rung].values)
    there = (reached(other, rung) for other in others)
    values = [goals.ascending(seen.values) for seen in there if seen is not None]
    return goes_on(own, values, keep, goals.first_measured)


def reached(record: Record, rung: int) -> Seen | None:
    """Return a record's values at a rung, counted from 0; None if it did not reach it.

    A record that was trained in full before the rung counts with its final values: with rungs in
    FLOPs, or with `train.tokens` as a knob, a whole training may be shorter than a rung of costlier
    candidates.
    """
    if rung < len(record.seen):
        return record.seen[rung]
    return record.seen[-1] if record.status == "finished" else None


def fronts(values: Sequence[Values]) -> list[int]:
    """Rank values by non-dominated sorting: 0 for the Pareto front, 1 for the front without rank 0, ...

    A point's front is found by bisection (Zhang et al., 2015): whoever is dominated by one of a front is
    dominated by one of each front before it.
    """
    if all(len(point) == 2 for point in values):
        return _fronts_of_two(values)
    layers: list[list[Values]] = []
    ranks: dict[Values, int] = {}
    # in this order a dominating point comes before those it dominates
    for point in sorted(set(values), reverse=True):
        rank = bisect_left(layers, True, key=partial(_is_free, point))
        if rank == len(layers):
            layers.append([])
        layers[rank].append(point)
        ranks[point] = rank
    return [ranks[point] for point in values]


def _fronts_of_two(values: Sequence[Values]) -> list[int]:
    """Rank pairs: the second objective grows along a front, so its last point alone decides."""
    last: list[float] = []
    ranks: dict[Values, int] = {}
    for point in sorted(set(values), reverse=True):
        # the last points of the fronts, ascending once negated
        rank = bisect_right(last, -point[1])
        last[rank : rank + 1] = [-point[1]]
        ranks[point] = rank
    return [ranks[point] for point in values]


def _is_free(point: Values, layer: Sequence[Values]) -> bool:
    """Return whether none of a front dominates a point that comes after them all in descending order."""
    return not any(dominates(other, point) for other in layer)


def best_first(goals: Goals, records: Iterable[Record]) -> list[Record]:
    """Sort records with results: by front, then by the objectives in order; the sort is stable."""
    found = list(records)
    values = [goals.ascending(record.seen[-1].values) for record in found]
    ranks = fronts(values)
    order = sorted(range(len(found)), key=lambda i: (ranks[i], *(-value for value in values[i])))
    return [found[i] for i in order]


def milestones(rungs: Sequence[int] | FlopRungs, spec: Spec, costs: Mapping[str, float]) -> list[int]:
    """Return the training tokens at which a run is evaluated: the rungs before its end, then its end.

    A rung in FLOPs is at the end of the first optimizer step by which training has used as many. Rungs closer
    than an optimizer step may coincide; each still counts.
    """
    assert spec.train is not None
    marks = _steps(rungs.flops, spec, costs) if isinstance(rungs, FlopRungs) else rungs
    return [*(mark for mark in marks if mark < spec.train.tokens), spec.train.tokens]


def _steps(flops: Sequence[int], spec: Spec, costs: Mapping[str, float]) -> list[int]:
    """Return the tokens of the whole optimizer steps that reach a number of FLOPs."""
    assert spec.train is not None
    whole = int(costs["train_flops"])
    # in integers, since FLOPs exceed the precision of a float
    return [-(-mark * spec.train.steps // whole) * spec.train.tokens_per_step for mark in flops]


def tokens(spec: Spec) -> int:
    """Return the training tokens of a whole run."""
    assert spec.train is not None
    return spec.train.tokens
