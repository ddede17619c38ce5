"""Which rungs no longer stop trials, because the ranking there does not predict the ranking at the end.

This is decided whenever a trial reaches a rung, and written with what was measured there. It is therefore a
function of the records: a resumed search decides alike, all workers see it, and the decision is
good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from search.compare.kendall import kendall
from search.objectives import Goals
from search.store.ledger import Record

FEWEST = 8
"""Fewest runs trained in full beyond a rung from which anything is concluded about it."""
LEAST = 0.4
"""A rung stops trials while the upper bound of Kendall's tau between it and the end is at least this."""
_Z = 1.645
"""The normal quantile of a one-sided 95 % bound."""
_LAST = 200
"""Number of latest runs considered; computing tau is quadratic in it."""


def tau_bound(records: Iterable[Record], rung: int, goals: Goals) -> float | None:
    """Return the upper 95 % confidence bound of Kendall's tau between a rung and the end.

    It is taken over the runs trained in full, baselines included, in the primary objective, by Fieller's
    standard error (1957). Only runs that went on can be compared; these are alike, which lowers tau, so the
    bound is held against a tau that is itself low.

    Args:
        rung: counted from 0.

    Returns:
        The bound; None below FEWEST runs.
    """
    i = goals.first_measured
    pairs = [
        (record.seen[rung].values[i], record.seen[-1].values[i])
        for record in records
        if record.kind != "final" and record.status == "finished" and len(record.seen) > rung + 1
    ][-_LAST:]
    if len(pairs) < FEWEST:
        return None
    tau = kendall([first for first, _ in pairs], [last for _, last in pairs])
    # where one of them ranks nothing, nothing speaks against the rung
    if math.isnan(tau) or tau >= 1:
        return 1.0
    error = math.sqrt(0.437 / (len(pairs) - 4))
    return math.tanh(math.atanh(max(tau, -0.999)) + _Z * error)


def out_of_use(records: Iterable[Record], rung: int, goals: Goals) -> float | None:
    """Return the bound for which a rung no longer stops trials; None while it does.

    A retired rung stays retired.
    """
    known = list(records)
    found = first_spared(known, rung)
    if found is not None:
        return found.seen[rung].tau_bound
    bound = tau_bound(known, rung, goals)
    return bound if bound is not None and bound < LEAST else None


def moved(records: Iterable[Record], rungs: int) -> dict[int, Record]:
    """Return, by rung, the first trial that each retired rung let pass."""
    known = list(records)
    found = ((rung, first_spared(known, rung)) for rung in range(rungs))
    return {rung: record for rung, record in found if record is not None}


def first_spared(records: Iterable[Record], rung: int) -> Record | None:
    """Return the first trial that a retired rung let pass, or None."""
    spared = [r for r in records if len(r.seen) > rung and r.seen[rung].tau_bound is not None]
    return min(spared, key=lambda record: int(record.name), default=None)
