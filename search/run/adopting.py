"""Baselines that a search has not started yet: new specs, and specs that it already trained as trials.

A search may be given other baselines at any start. A baseline that equals a trial is not trained again: the
trial counts as that baseline from then on, for all workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from search.compare.rungs import tokens
from search.propose.baselines import Baseline
from search.store.ledger import Ledger, Record, free


def lacking(ledger: Ledger, baselines: Mapping[str, Baseline]) -> Iterator[str]:
    """Yield the identities of baselines without a record."""
    for identity in baselines:
        record = ledger.find(identity)
        if record is None or record.role == "trial":
            yield identity


def adopt(ledger: Ledger, baselines: Mapping[str, Baseline], others: set[str]) -> None:
    """Make trials that equal baselines count as baselines; call under the store's lock after a refresh.

    A trial that one of the `others` is training is adopted once it has ended.
    """
    for identity in lacking(ledger, baselines):
        record = ledger.find(identity)
        if record is not None and (record.status != "running" or free(record, others)):
            ledger.adopt(record, baselines[identity].stem)


def claim(ledger: Ledger, identity: str, baseline: Baseline, worker: str) -> Record:
    """Claim a baseline without a record; call under the store's lock after a refresh."""
    more = {"worker": worker, "whole": tokens(baseline.spec), "origin": baseline.origin}
    return ledger.claim_baseline(baseline.stem, identity, baseline.costs, **more)
