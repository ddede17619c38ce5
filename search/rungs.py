"""Asynchronous successive halving (after arXiv 1810.05934): who goes on at a rung, decided on arrival.

No candidate waits for others. It is held against those that have reached the rung so far, itself included:
with one objective it goes on among the best share, with several it is ranked by non-dominated fronts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from composer.spec.models import Spec
from search.goals import Goals, Values, dominates
from search.ledger import Record


def goes_on(own: Values, others: Sequence[Values], keep: float) -> bool:
    """Decide whether a candidate goes on from a rung.

    Args:
        own: its values at the rung, larger is better in each.
        others: the values at the same rung of all who reached it before.
        keep: the share that goes on, above 0 and at most 1.

    Returns:
        Whether fewer than `ceil(keep * n)` of the n candidates stand on a better front. Equals go on
        together, and who is on the first front is never stopped.
    """
    everyone = [own, *others]
    ranks = fronts(everyone)
    return sum(rank < ranks[0] for rank in ranks) < math.ceil(keep * len(everyone))


def holds(record: Record, records: Iterable[Record], goals: Goals, keep: float) -> bool:
    """Whether a record goes on from the milestone it has just reached, against those there before."""
    rung = len(record.seen) - 1
    own, *others = (
        goals.ascending(other.seen[rung].values)
        for other in [record, *(other for other in records if other is not record)]
        if len(other.seen) > rung
    )
    return goes_on(own, others, keep)


def fronts(values: Sequence[Values]) -> list[int]:
    """Rank values by non-dominated sorting: 0 for those nobody beats, 1 for those only rank 0 beats, ..."""
    ranks: dict[Values, int] = {}
    # whoever dominates comes before in this order
    for point in sorted(set(values), reverse=True):
        ranks[point] = 1 + max((ranks[other] for other in ranks if dominates(other, point)), default=-1)
    return [ranks[point] for point in values]


def milestones(rungs: Sequence[int], tokens: int) -> list[int]:
    """Return the training tokens at which a run is looked at: the rungs, then its end."""
    return [*(rung for rung in rungs if rung < tokens), tokens]


def tokens(spec: Spec) -> int:
    """Return the training tokens of a whole run."""
    assert spec.train is not None
    return spec.train.tokens
