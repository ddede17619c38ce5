"""The budget of a search: trials, training tokens, training FLOPs, time; shared by all workers.

The expected cost of finals is reserved: their number times the costliest run trained in full, but
never more than half of a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from composer.costs.base.units import count_text, duration
from composer.language.schema.search import SearchConfig
from search.progress.spending import Now, Spending


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


def accounts(
    config: SearchConfig, spending: Spending, finals: int, left: int, now: Sequence[Now] = ()
) -> Iterator[Account]:
    """Yield the budgets on tokens, FLOPs and time that a search has.

    Args:
        spending: of all its runs, finals included.
        finals: how many there will be in all.
        left: how many of them are still to come.
        now: the runs in training, as far as known.
    """
    every, search, most = spending.every(now), spending.searched(now), spending.most()
    # workers side by side take less wall-clock time than their runs in sequence
    side_by_side = max(1.0, search.seconds / search.clock) if search.clock else 1.0
    limits: list[tuple[str, float | None, float, float, float]] = [
        ("tokens", config.tokens, most.tokens, every.tokens, search.tokens),
        ("FLOPs", config.flops, most.flops, every.flops, search.flops),
        ("by the clock", config.time_limit, most.seconds / side_by_side, every.clock, search.clock),
    ]
    for name, limit, each, spent, by_search in limits:
        if limit is not None:
            kept, aside = (min(runs * each, limit / 2) for runs in (finals, left))
            yield Account(name, spent, aside, limit, by_search, limit - kept)


_TEXT: dict[str, Callable[[float], str]] = {
    "tokens": count_text,
    "FLOPs": count_text,
    "by the clock": duration,
}
