"""Asynchronous successive halving (arXiv 1810.05934): which candidates continue at a rung, decided on
arrival.

No candidate waits for others. It is ranked among those that have reached the rung so far, itself included: by
non-dominated front, and within a front by the first objective that training measures.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter

from composer.language.schema.search import FlopRungs
from composer.language.schema.spec import Spec
from search.compare.fronts import Fronts, fronts
from search.compare.rung_check import latest_pairs, retires
from search.objectives import Goals, Values
from search.store.digest import Digest
from search.store.ledger import Record, Seen, Status, in_order


def goes_on(own: Values, others: Fronts, keep: float, measured: int = 0) -> bool:
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
    return others.ahead(own, measured) < math.ceil(keep * (1 + len(others)))


class Arrivals:
    """The records that reached each rung so far, updated as records change; finals are left out."""

    def __init__(self, digest: Digest, goals: Goals) -> None:
        self._digest, self._goals = digest, goals
        self._rungs: dict[int, tuple[Fronts, set[str]]] = {}
        self._finished: list[tuple[tuple[str, int, str], Record]] = []
        self._ended: set[str] = set()
        for record in digest.records.values():
            self._update(record)
        digest.follow(self._update)

    def status_after(self, record: Record, keep: float, end: bool) -> Status:
        """Return the status of a record after the milestone it has just reached; only trials are stopped."""
        if end:
            return "finished"
        return "stopped" if record.role == "trial" and not self.holds(record, keep) else "running"

    def holds(self, record: Record, keep: float) -> bool:
        """Decide whether a record continues beyond the rung it has just reached.

        It is ranked among those that reached it before and those whose whole training was shorter. At a rung
        whose ranking does not predict the final one, every trial continues; this is noted with what was
        measured there.
        """
        rung = len(record.seen) - 1
        bound = self.out_of_use(rung)
        if bound is not None:
            record.seen[rung].tau_bound = bound
            return True
        own = self._goals.ascending(record.seen[rung].values)
        return goes_on(own, self._others(rung, record), keep, self._goals.first_measured)

    def out_of_use(self, rung: int) -> float | None:
        """Return the bound for which a rung no longer stops trials; None while it does.

        A retired rung stays retired.
        """
        if rung in self._digest.spared:
            return self._digest.spared[rung].seen[rung].tau_bound
        latest_first = (record for _, record in reversed(self._finished))
        return retires(latest_pairs(latest_first, rung, self._goals))

    def _others(self, rung: int, own: Record) -> Fronts:
        """Return what reached a rung; a record that has just reached it enters when it is saved."""
        if rung not in self._rungs:
            self._rungs[rung] = Fronts(), set()
            for record in self._digest.records.values():
                if record is not own:
                    self._enter(rung, record)
        return self._rungs[rung][0]

    def _update(self, record: Record) -> None:
        for rung in self._rungs:
            self._enter(rung, record)
        if record.status == "finished" and record.kind != "final" and record.key not in self._ended:
            self._ended.add(record.key)
            insort(self._finished, (in_order(record), record), key=itemgetter(0))

    def _enter(self, rung: int, record: Record) -> None:
        values, known = self._rungs[rung]
        seen = reached(record, rung)
        # results at a rung never change
        if seen is not None and record.kind != "final" and record.key not in known:
            known.add(record.key)
            values.add(self._goals.ascending(seen.values))


def reached(record: Record, rung: int) -> Seen | None:
    """Return a record's values at a rung, counted from 0; None if it did not reach it.

    A record that was trained in full before the rung counts with its final values: with rungs in
    FLOPs, or with `train.tokens` as a parameter, a whole training may be shorter than a rung of costlier
    candidates.
    """
    if rung < len(record.seen):
        return record.seen[rung]
    return record.seen[-1] if record.status == "finished" else None


def best_first(goals: Goals, records: Iterable[Record]) -> list[Record]:
    """Sort records with results: by front, then by the objectives in order; the sort is stable."""
    known = list(records)
    values = [goals.ascending(record.seen[-1].values) for record in known]
    ranks = fronts(values)
    order = sorted(range(len(known)), key=lambda i: (ranks[i], *(-value for value in values[i])))
    return [known[i] for i in order]


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
