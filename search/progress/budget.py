"""What a search may spend: trials, training tokens, training FLOPs, time; shared by all workers.

The expected cost of finals is reserved: their number times the costliest run trained in full, but
never more than half of a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from composer.costs.base.units import count_text, duration
from composer.language.schema.search import SearchConfig
from search.store.ledger import Record


@dataclass(frozen=True)
class Account:
    """One budget.

    Attributes:
        spent: by all runs.
        aside: what remaining finals will take.
        searched: what trials and baselines spent.
        share: the part of the limit that trials and baselines may spend, however far finals are.
    """

    name: str
    spent: float
    aside: float
    limit: float
    searched: float
    share: float

    @property
    def used_up(self) -> bool:
        """Whether nothing is left for another trial or baseline."""
        return self.searched >= self.share or self.gone

    @property
    def gone(self) -> bool:
        """Whether nothing is left for finals either."""
        return self.spent >= self.limit

    def __str__(self) -> str:
        aside = f" ({self.text(self.aside)} kept for finals)" if self.aside else ""
        return f"{self.text(self.spent)} of {self.text(self.limit)} {self.name}{aside}"

    def text(self, value: float) -> str:
        """Format an amount of it."""
        return _TEXT[self.name](value)


Span: TypeAlias = tuple[float, float]
Now: TypeAlias = tuple[Record, float, float]
_Measure: TypeAlias = Callable[[Record], float]


def accounts(
    config: SearchConfig, records: Iterable[Record], finals: int, left: int, now: Sequence[Now] = ()
) -> Iterator[Account]:
    """Yield the budgets on tokens, FLOPs and time that a search has.

    Args:
        records: all of them, finals included.
        finals: how many there will be in all.
        left: how many of them are still to come.
        now: the runs in training, as far as known: when each began, and the current time.
    """
    own = [record for record in records if not record.imported]
    full = [record for record in own if record.status == "finished"]
    search = [record for record in own if record.kind != "final"]
    by_clock = clock(own, now)
    searched = clock(search, [each for each in now if each[0].kind != "final"])
    # workers side by side take less wall-clock time than their runs in sequence
    side_by_side = max(1.0, sum(record.seconds for record in search) / searched) if searched else 1.0
    limits: list[tuple[str, float | None, _Measure, float, float]] = [
        ("tokens", config.tokens, _tokens, sum(map(_tokens, own)), sum(map(_tokens, search))),
        ("FLOPs", config.flops, flops, sum(map(flops, own)), sum(map(flops, search))),
        ("by the clock", config.time_limit, lambda each: each.seconds / side_by_side, by_clock, searched),
    ]
    for name, limit, measure, spent, by_search in limits:
        if limit is not None:
            each = max(map(measure, full), default=0.0)
            kept, aside = (min(runs * each, limit / 2) for runs in (finals, left))
            yield Account(name, spent, aside, limit, by_search, limit - kept)


def _tokens(record: Record) -> float:
    return record.read


def flops(record: Record) -> float:
    """Return the training FLOPs of a record up to its last milestone, or to where it crashed."""
    share = record.read / record.whole if record.whole else float(record.status == "finished")
    return record.costs.get("train_flops", 0.0) * share


def clock(records: Iterable[Record], now: Iterable[Now] = ()) -> float:
    """Return the wall-clock seconds during which any worker trained; overlapping spans count once."""
    spent, reached = 0.0, 0.0
    for begun, ended in sorted(
        [*(span for each in records for span in _spans(each)), *(each[1:] for each in now)]
    ):
        spent += max(0.0, ended - max(begun, reached))
        reached = max(reached, ended)
    return spent


def _spans(record: Record) -> list[Span]:
    # searches of older versions have no spans, only the duration and an approximate time
    return record.spans or [(record.started, record.started + record.seconds)]


_TEXT: dict[str, Callable[[float], str]] = {
    "tokens": count_text,
    "FLOPs": count_text,
    "by the clock": duration,
}
