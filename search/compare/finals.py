"""Finals: the best candidates and the baselines, each retrained at several learning rates and with fresh
seeds.

The learning rate is chosen on the search's seed; results come from fresh seeds that no choice was based on,
so the best of many candidates is not favoured by selection bias. Baselines are treated alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from composer.language.schema.search import SearchConfig
from composer.language.schema.spec import Spec
from search.compare.choosing import spread
from search.compare.fronts import fronts
from search.objectives import Goals, Values
from search.store.ledger import Ledger, Record


@dataclass(frozen=True)
class Due:
    """A run to be claimed: a record to retrain as `again` says, under its own name."""

    base: Record
    name: str
    again: dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """The results of a finalist or a baseline when retrained.

    Attributes:
        base: its record in the search.
        sweep: the result with the search's own seed, by multiple of the learning rate (1 included); None
            while that is not known or where it crashed.
        lr: the chosen multiple; None until the sweep has ended.
        runs: those with fresh seeds at that rate, trained in full.
        crashed: how many of these crashed.
        left: number of runs, of the sweep or with fresh seeds, that have not ended.
        at_rate: the run with the search's own seed at that rate, which is `base` at 1.
    """

    base: Record
    sweep: dict[float, Values | None]
    lr: float | None
    runs: tuple[Record, ...]
    crashed: int
    left: int
    at_rate: Record | None

    @cached_property
    def results(self) -> tuple[Values, ...]:
        """The objectives of each fresh seed."""
        return tuple(run.seen[-1].values for run in self.runs)

    def column(self, objective: int) -> list[float]:
        """Return one objective of each fresh seed."""
        return [values[objective] for values in self.results]

    @property
    def mean(self) -> Values | None:
        """The mean of each objective over fresh seeds; None without any."""
        return tuple(map(fmean, zip(*self.results, strict=True))) or None

    @property
    def spread(self) -> Values | None:
        """The sample standard deviation of each objective; None below two seeds."""
        return tuple(map(stdev, zip(*self.results, strict=True))) if len(self.results) > 1 else None


class Finals:
    """The finals of a search, computed from its records."""

    def __init__(self, config: SearchConfig, goals: Goals, ledger: Ledger) -> None:
        self.config, self.goals, self.ledger = config, goals, ledger

    @cached_property
    def _known(self) -> set[str]:
        return {record.key for record in self.ledger.finals()}

    def finalists(self) -> list[Record]:
        """Return the trials to retrain, as of now."""
        return ranked(self.goals, self.ledger)[: self.config.finalists]

    def standings(self) -> list[Standing]:
        """Return the standings of all retrained: trials, best first, then baselines."""
        ends, best = _ends(self.ledger), ranked(self.goals, self.ledger)
        bases = [*best, *_baselines(self.ledger)]
        # a record that is no finalist any more gets no further runs
        past = {base.key for base in best[self.config.finalists :]}
        return [
            self._standing(base, ends[base.key], base.key not in past) for base in bases if base.key in ends
        ]

    def due(self, over: bool) -> Iterator[Due]:
        """Yield the runs to be claimed next: sweeps first, then seed by seed at the rates they chose.

        Args:
            over: whether all trials have ended; before that only baselines are retrained.
        """
        if not self.config.retrains:
            return
        ends = _ends(self.ledger)
        bases = [*(self.finalists() if over else ()), *_baselines(self.ledger)]
        standings = [self._standing(base, ends.get(base.key, {}), True) for base in bases]
        for at in standings:
            for lr in self.config.lr_sweep:
                yield from self._due(at.base, {"lr": lr, "seed": 0})
        for seed in range(1, self.config.seeds + 1):
            for at in standings:
                if at.lr is not None:
                    yield from self._due(at.base, {"lr": at.lr, "seed": seed})

    def count(self) -> int:
        """Return the total number of runs of the finals, given as many finalists as requested."""
        if not self.config.retrains:
            return 0
        digest = self.ledger.digest
        trials = digest.count("trial", "finished", "running")
        bases = min(self.config.finalists, trials) + digest.count("baseline", "finished")
        return bases * self.config.retrains

    def settled(self) -> list[Standing]:
        """Return the standings of the finalists once all their runs have ended; nothing before."""
        trials = [at for at in self.standings() if at.base.role == "trial"]
        # with finals turned off, those of earlier starts count
        wanted = {at.base.key for at in trials}
        if self.config.retrains:
            wanted = {base.key for base in self.finalists()}
        settled = [at for at in trials if at.base.key in wanted and not at.left]
        return settled if len(settled) == len(wanted) else []

    def _due(self, base: Record, again: dict[str, Any]) -> Iterator[Due]:
        name = f"{base.name}-lr{again['lr']:g}" + (f"-seed{again['seed']}" if again["seed"] else "")
        if f"final-{name}" not in self._known:
            yield Due(base, name, again)

    def _standing(self, base: Record, ends: Mapping[tuple[float, int], Record], owed: bool) -> Standing:
        # what an earlier start requested counts, too
        rates = {*(self.config.lr_sweep if owed else ()), *(lr for lr, seed in ends if not seed)}
        swept = {lr: ends.get((lr, 0)) for lr in rates}
        sweep: dict[float, Values | None] = {1.0: base.values}
        sweep |= {lr: record.values if record else None for lr, record in swept.items()}
        missing = sum(record is None or record.status == "running" for record in swept.values())
        lr = None if missing else self._best(sweep)
        fresh = [record for (at, seed), record in ends.items() if at == lr and seed]
        ended = [record for record in fresh if record.status != "running"]
        crashed = sum(record.status == "crashed" for record in ended)
        runs = tuple(record for record in ended if record.status == "finished")
        left = missing + max(self.config.seeds if owed else 0, len(fresh)) - len(ended)
        at_rate = None if lr is None else base if lr == 1 else swept[lr]
        return Standing(base, dict(sorted(sweep.items())), lr, runs, crashed, left, at_rate)

    def _best(self, sweep: Mapping[float, Values | None]) -> float:
        """Choose the rate that is best in the first objective that training measures, near 1 among equals."""
        first = self.goals.first_measured
        known = {
            lr: self.goals.ascending(values)[first] for lr, values in sweep.items() if values is not None
        }
        return max(known, key=lambda lr: (known[lr], -abs(lr - 1)))


def ranked(goals: Goals, ledger: Ledger) -> list[Record]:
    """Return the trials trained in full in the order in which they become finalists.

    By front, then by the primary objective; on a front near copies of others come last, so that finalists
    are spread over the upper end of the first.
    """
    finished = [record for record in ledger.trials() if record.status == "finished"]
    values = {record.key: record.seen[-1].values for record in finished}
    ranks = fronts([goals.ascending(each) for each in values.values()])
    records = {record.key: record for record in finished}
    order: list[Record] = []
    for rank in sorted(set(ranks)):
        front = {key: values[key] for key, own in zip(values, ranks, strict=True) if own == rank}
        order += [records[key] for key in spread(goals, front)]
    return order


def respec(spec: Spec, again: Mapping[str, Any]) -> Spec:
    """Return a spec as a final trains it: at a multiple of its learning rate, with a fresh seed."""
    assert spec.train is not None
    train = {"lr": float(f"{spec.train.lr * again['lr']:.9g}"), "seed": spec.train.seed + again["seed"]}
    return spec.model_copy(update={"train": spec.train.model_copy(update=train)})


def _baselines(ledger: Ledger) -> list[Record]:
    return [record for record in ledger if record.role == "baseline" and record.status == "finished"]


def _ends(ledger: Ledger) -> dict[str, dict[tuple[float, int], Record]]:
    """Return the finals by the record they retrain, then by learning rate and seed."""
    ends: dict[str, dict[tuple[float, int], Record]] = {}
    for record in ledger.finals():
        ends.setdefault(record.again["of"], {})[record.again["lr"], record.again["seed"]] = record
    return ends
