"""Which rungs no longer stop trials, because the ranking there does not predict the ranking at the end.

This is decided whenever a trial reaches a rung, and written with what was measured there. It is therefore a
function of the records: a resumed search decides alike, all workers see it, and the decision is
good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

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


def latest_pairs(latest_first: Iterable[Record], rung: int, goals: Goals) -> list[tuple[float, float]]:
    """Return the results at a rung, counted from 0, and at the end of the latest runs trained beyond it.

    They are results in the primary objective, baselines' included, in the order of the records.
    """
    i = goals.first_measured
    all_pairs = (
        (record.seen[rung].values[i], record.seen[-1].values[i])
        for record in latest_first
        if record.status == "finished" and len(record.seen) > rung + 1
    )
    return [*islice(all_pairs, _LAST)][::-1]


def retires(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return the bound for which a rung with these results stops no further trials; None while it does."""
    bound = tau_bound(pairs)
    return bound if bound is not None and bound < LEAST else None


def tau_bound(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return the upper 95 % confidence bound of Kendall's tau between results at a rung and at the end.

    It has Fieller's standard error (1957). Only runs that went on can be compared; these are alike, which
    lowers tau, so the bound is held against a tau that is itself low. None below FEWEST runs.
    """
    if len(pairs) < FEWEST:
        return None
    tau = kendall([first for first, _ in pairs], [last for _, last in pairs])
    # where one of them ranks nothing, nothing speaks against the rung
    if math.isnan(tau) or tau >= 1:
        return 1.0
    error = math.sqrt(0.437 / (len(pairs) - 4))
    return math.tanh(math.atanh(max(tau, -0.999)) + _Z * error)
