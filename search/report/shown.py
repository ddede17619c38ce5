"""Which records a page shows: a browser and a reader cannot take in ten thousand."""

from __future__ import annotations

from search.progress.leaderboard import ranked
from search.progress.state import State
from search.report.lineage import steps
from search.store.ledger import Record

MOST = 1000
"""Number of baselines and trials up to which all are shown."""


def shown(state: State) -> list[Record]:
    """Return the records to show, in order: all, or the front, what it is compared with, and the best."""
    records = list(state.ledger)
    if len(records) <= MOST:
        return records
    winner = state.winner()
    first = [*state.front(), *state.front("trial"), *filter(state.is_baseline, records)]
    first += [state.base(final) for final in state.ledger.finals()]
    first += [step.record for step in steps(state, winner)] if winner is not None else []
    picked = dict.fromkeys(record.key for record in [*first, *ranked(state)][: MOST + len(first)])
    keys = set(list(picked)[: max(MOST, len({record.key for record in first}))])
    return [record for record in records if record.key in keys]
