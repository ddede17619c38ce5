"""Comparisons of two results with the p-value of their difference, worded alike everywhere they appear.

Both sides are of one kind: means over fresh seeds where both have them, else the result of the search's own
seed at the best learning rate of each, else what the search measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import stdev
from typing import Literal, TypeAlias

from composer.costs.base.units import count_text
from search.compare.finals import Standing
from search.compare.permutation_test import LEVEL, permutation_test, smallest_p
from search.objectives import Values
from search.progress.state import State
from search.progress.words import gap_text, mean_text, titled, value_text
from search.store.ledger import Record

Verdict: TypeAlias = Literal["significant", "not significant", "too few seeds", "one seed each", "cost"]


@dataclass(frozen=True)
class Result:
    """The result of a record in one objective.

    Attributes:
        value: the mean over fresh seeds, else the single value.
        seeds: the result of each fresh seed.
        lr: the multiple of its learning rate that it was trained at.
    """

    metric: str
    value: float
    seeds: tuple[float, ...] = ()
    lr: float = 1.0

    @property
    def spread(self) -> float | None:
        """The sample standard deviation over fresh seeds; None below two."""
        return stdev(self.seeds) if len(self.seeds) > 1 else None

    @property
    def text(self) -> str:
        """The value, its spread, and the number of seeds, as text."""
        text = mean_text(self.metric, self.value, self.spread)
        seeds = f" over {len(self.seeds)} fresh seed{'s' * (len(self.seeds) > 1)}" if self.seeds else ""
        return text + seeds + (f" at lr x{self.lr:g}" if self.lr != 1 else "")


@dataclass(frozen=True)
class Comparison:
    """Two records in one objective.

    Attributes:
        better: by how much the first is better than the other; negative if it is worse.
        p: the p-value of a permutation test; None with too few seeds.
    """

    one: Result
    other: Result
    better: float
    p: float | None
    verdict: Verdict

    @property
    def word(self) -> str:
        """Whether the first is `better`, `worse` or `equal`."""
        return "better" if self.better > 0 else "worse" if self.better < 0 else "equal"

    @property
    def size(self) -> str:
        """The difference as text: `0.021 better`."""
        if not self.better:
            return "equal"
        spread = max((each.spread or 0.0 for each in (self.one, self.other)), default=0.0)
        return f"{gap_text(self.one.metric, abs(self.better), spread)} {self.word}"

    @property
    def doubt(self) -> str:
        """The p-value of the difference, or why there is none; empty for a cost."""
        match self.verdict:
            case "cost":
                return ""
            case "one seed each":
                return "one seed each, so no p-value"
            case "too few seeds":
                return "too few seeds for a permutation test (it takes three each)"
            case _:
                return f"permutation test: {self.p_text}"

    @property
    def p_text(self) -> str:
        """The p-value as text, `p = 0.10`; empty without one."""
        if self.p is None:
            return ""
        return f"p = {self.p:.2f}" if self.p >= 0.01 else f"p = {self.p:.1g}"


class Verdicts:
    """The comparisons of a search, as of now."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.standings: dict[str, Standing] = {at.base.key: at for at in state.finals().standings()}

    @cached_property
    def winner(self) -> Record | None:
        """The winner among trials, chosen by `rule`."""
        return self.state.winner()

    @cached_property
    def rule(self) -> str:
        """Return the rule by which the winner was chosen; empty without a winner."""
        choice, goals = self.state.choice(), self.state.goals
        if choice is None:
            return ""
        i, name = goals.first_measured, goals.primary
        if choice.error is None:
            going = "; finals have not ended" * (choice.basis == "search" and self.state.config.retrains > 0)
            return f"best {_BASES[choice.basis].format(name)}{going}"
        rest = [goal for goal in goals.objectives if goal.metric != name]
        cheaper = f"{'lower' if rest[0].direction == 'minimize' else 'higher'} {rest[0].metric}"
        error = f"one standard error ({gap_text(name, choice.error, choice.error)})"
        if choice.winner is choice.best:
            return f"best mean {name} over fresh seeds; no finalist with {cheaper} is within {error} of it"
        least = cheaper.replace("lower", "lowest").replace("higher", "highest")
        mean = self.results(choice.best)[i].value
        return (
            f"{least} of the finalists within {error} of the best mean {name} "
            f"({titled(self.state, choice.best)}: {value_text(name, mean)})"
        )

    @cached_property
    def rival(self) -> Record | None:
        """The best baseline, by its mean over fresh seeds if baselines have fresh seeds."""
        baselines = {
            each.key: each
            for each in self.state.ledger
            if each.status == "finished" and self.state.is_baseline(each)
        }
        for level in _LEVELS:
            values = {key: level(each, self.standings.get(key)) for key, each in baselines.items()}
            known = {key: value for key, value in values.items() if value is not None}
            if known:
                return baselines[self.state.goals.front(known)[0]]
        return None

    def results(self, record: Record) -> list[Result]:
        """Return a record's result in each objective, from the most reliable source; empty before a rung."""
        return self._results(record, self._level(record)) if record.seen else []

    def against(self, one: Record, other: Record) -> list[Comparison]:
        """Compare two records trained in full, objective by objective."""
        level = max(self._level(one), self._level(other))
        pairs = zip(self._results(one, level), self._results(other, level), strict=True)
        return [self._compare(i, *pair) for i, pair in enumerate(pairs)]

    def final(self) -> list[Comparison]:
        """Compare the winner with the best baseline; empty if one is missing."""
        return self.against(self.winner, self.rival) if self.winner and self.rival else []

    @property
    def uneven(self) -> str:
        """Return a note if winner and best baseline were trained for different numbers of tokens, else ""."""
        if self.winner is None or self.rival is None or self.winner.tokens == self.rival.tokens:
            return ""
        own, other = count_text(self.winner.tokens), count_text(self.rival.tokens)
        return f"the winner was trained for {own} tokens, {self.rival.name} for {other}"

    def _level(self, record: Record) -> int:
        at = self.standings.get(record.key)
        return next(i for i, level in enumerate(_LEVELS) if level(record, at) is not None)

    def _results(self, record: Record, level: int) -> list[Result]:
        at, goals = self.standings.get(record.key), self.state.goals
        values = _LEVELS[level](record, at)
        assert values is not None
        lr = 1.0 if at is None or at.lr is None or level == len(_LEVELS) - 1 else at.lr
        results = []
        for i, (goal, value) in enumerate(zip(goals.objectives, values, strict=True)):
            seeds = at.column(i) if at is not None and not level and not goal.is_cost else []
            results.append(Result(goal.metric, value, tuple(seeds), 1.0 if goal.is_cost else lr))
        return results

    def _compare(self, objective: int, one: Result, other: Result) -> Comparison:
        goal = self.state.goals.objectives[objective]
        better = (one.value - other.value) * (1 if goal.direction == "maximize" else -1)
        if goal.is_cost:
            return Comparison(one, other, better, None, "cost")
        if not one.seeds:
            return Comparison(one, other, better, None, "one seed each")
        if smallest_p(len(one.seeds), len(other.seeds)) > LEVEL:
            return Comparison(one, other, better, None, "too few seeds")
        p = permutation_test(one.seeds, other.seeds)
        verdict: Verdict = "significant" if p <= LEVEL else "not significant"
        return Comparison(one, other, better, p, verdict)


def _mean(record: Record, at: Standing | None) -> Values | None:
    return None if at is None else at.mean


def _swept(record: Record, at: Standing | None) -> Values | None:
    return None if at is None or at.lr is None else at.sweep[at.lr]


def _own(record: Record, at: Standing | None) -> Values | None:
    return record.values


_BASES = {
    "seeds": "mean {} over fresh seeds",
    "rates": "{} at its best learning rate, one seed each",
    "search": "{} in the search, one seed each",
}
_LEVELS = (_mean, _swept, _own)
"""Sources of a record's result, most reliable first: fresh seeds, its best learning rate, the search."""
