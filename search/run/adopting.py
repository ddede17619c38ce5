"""Baselines that a search has not begun yet: new specs, and those that it trained as trials before.

A search may be given other baselines at any start. One that a trial turns out to be is not trained again: the
trial counts as that baseline from then on, for all workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from search.compare.rungs import tokens
from search.propose.baselines import Baseline
from search.store.ledger import Ledger, Record, free


def lacking(ledger: Ledger, baselines: Mapping[str, Baseline]) -> Iterator[str]:
    """Yield the identities of those that nothing stands for yet."""
    for identity in baselines:
        record = ledger.find(identity)
        if record is None or record.role == "trial":
            yield identity


def adopt(ledger: Ledger, baselines: Mapping[str, Baseline], others: set[str]) -> None:
    """Have trials that are baselines count as such; under the store's lock, freshly read.

    One that another worker of the `others` is training is left until that has ended.
    """
    for identity in lacking(ledger, baselines):
        record = ledger.find(identity)
        if record is not None and (record.status != "running" or free(record, others)):
            ledger.adopt(record, baselines[identity].stem)


def claim(ledger: Ledger, identity: str, baseline: Baseline, worker: str) -> Record:
    """Take on a baseline that nobody has trained; under the store's lock, freshly read."""
    more = {"worker": worker, "whole": tokens(baseline.spec), "origin": baseline.origin}
    return ledger.claim_baseline(baseline.stem, identity, baseline.costs, **more)
