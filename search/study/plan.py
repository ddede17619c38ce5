"""Which runs a study consists of, and which of them are due.

Every arm is first trained at every learning rate, with the base's own seed. Its best rate is then trained
with fresh seeds, which no choice was made on. Seeds come outermost, so that a study that is stopped early has
the same seeds of all arms.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from math import inf

from composer.data.base.errors import DataError
from composer.language.schema.identity import run_hash
from composer.language.schema.spec import Schedule, Spec, Train
from composer.training.folder.data_record import fingerprint_of, without_place
from composer.training.warmup import with_warmup
from search.study.config import lower_is_better
from search.study.load import Study, StudyArm
from search.study.rows import Cell, Row

_DIGITS = 12


@dataclass(frozen=True)
class Unit:
    """One run: an arm at one rate and one seed, which serves several budgets."""

    arm: StudyArm
    rate: float
    seed: int
    budgets: tuple[int, ...]


class Plan:
    """The runs of a study.

    Attributes: `study`; `seed` of the runs that rates are chosen by.
    """

    def __init__(self, study: Study, data: str | None = None) -> None:
        self.study, self.config = study, study.config
        self._data = data
        train = study.arms[0].spec.train
        assert train is not None
        self.seed = train.seed
        self._cells: dict[tuple[str, str, float, int, int], Cell] = {}

    @classmethod
    def judging(cls, study: Study, rows: Iterable[Row]) -> Plan:
        """Return the plan that rows are judged by; where the data are missing, they are those of the rows.

        Raises:
            DataError: the data are missing, and the rows are of none or of several.
        """
        try:
            return cls(study, cls(study).data)
        except DataError:
            marks = {row.data for row in rows}
            if len(marks) != 1:
                raise
            return cls(study, marks.pop())

    @cached_property
    def data(self) -> str:
        """The digest of the data, which all arms share; empty for tasks without files."""
        if self._data is not None:
            return self._data
        fingerprint = fingerprint_of(self.study.arms[0].spec)
        return "" if fingerprint is None else fingerprint.digest[:_DIGITS]

    def cell(self, arm: StudyArm, rate: float, seed: int, budget: int) -> Cell:
        """Return what the row of a run at a budget is the result of."""
        key = (arm.name, arm.size, rate, seed, budget)
        if key not in self._cells:
            self._cells[key] = Cell(self._hash(self.spec(arm, rate, seed, budget)), seed, self.data)
        return self._cells[key]

    def current(self, rows: Iterable[Row]) -> list[Row]:
        """Return rows as they would be written today: data are known by content, no longer by path too.

        Of several with the same cell the first counts.
        """
        by_cell: dict[Cell, Row] = {}
        for row in rows:
            cell = self._older_cells.get(row.cell, row.cell)
            by_cell.setdefault(cell, row if cell == row.cell else replace(row, spec=cell.spec))
        return [*by_cell.values()]

    def marks(self, arm: StudyArm) -> list[str]:
        """Return what tells the run folders of an arm from those it had before it was changed.

        The first is for new folders; folders that were made while data were known by path have the last.
        """
        data = [self.data] if self.data else []
        shapes = [
            [run_hash(spec), *data, self.config.warmup, self.config.decay]
            for spec in ([without_place(arm.spec), arm.spec] if data else [arm.spec])
        ]
        return [hashlib.sha256(repr(shape).encode()).hexdigest()[:6] for shape in shapes]

    def spec(self, arm: StudyArm, rate: float, seed: int, budget: int) -> Spec:
        """Return the spec that is trained for one budget."""
        train = arm.spec.train
        assert train is not None
        own = train.model_copy(update={"tokens": budget, "lr": rate, "seed": seed})
        schedule = _schedule(own, self.config.warmup, self.config.decay)
        return arm.spec.model_copy(update={"train": own.model_copy(update={"schedule": schedule})})

    def cells(self) -> set[Cell]:
        """Return the cells of all runs that the study may train."""
        return {self.cell(*run) for run in self._runs()}

    def size(self) -> int:
        """Return how many runs there are, each at one rate and seed."""
        return len(self.study.arms) * (len(self.config.rates) + self.config.seeds)

    def results(self, rows: Iterable[Row]) -> Results:
        """Look up the rows of this study."""
        return Results(self, {row.cell: row for row in self.current(rows)})

    def due(self, rows: Iterable[Row]) -> Iterator[Unit]:
        """Yield the runs that lack rows, in the order of their training, as far as rates are chosen."""
        results = self.results(rows)
        for arm in self.study.arms:
            for rate in self.config.rates:
                yield from self._lacking(results, arm, rate, self.seed)
        for number in range(1, self.config.seeds + 1):
            for arm in self.study.arms:
                if (best := results.rate(arm)) is not None:
                    yield from self._lacking(results, arm, best, self.seed + number)

    def _runs(self) -> Iterator[tuple[StudyArm, float, int, int]]:
        seeds = range(self.seed, self.seed + 1 + self.config.seeds)
        return product(self.study.arms, self.config.rates, seeds, self.config.budgets)

    @cached_property
    def _older_cells(self) -> dict[Cell, Cell]:
        """Map the cells of rows that were written while data were known by path too; empty without files."""
        if not self.data:
            return {}
        return {Cell(run_hash(self.spec(*run)), run[2], self.data): self.cell(*run) for run in self._runs()}

    def _hash(self, spec: Spec) -> str:
        return run_hash(without_place(spec) if self.data else spec)

    def _lacking(self, results: Results, arm: StudyArm, rate: float, seed: int) -> Iterator[Unit]:
        missing = tuple(b for b in self.config.budgets if results.row(arm, rate, seed, b) is None)
        if missing:
            yield Unit(arm, rate, seed, missing)


class Results:
    """The rows of a study by arm, rate, seed and budget."""

    def __init__(self, plan: Plan, rows: dict[Cell, Row]) -> None:
        self.plan, self._rows = plan, rows

    def row(self, arm: StudyArm, rate: float, seed: int, budget: int) -> Row | None:
        """Return the row of one run at one budget."""
        return self._rows.get(self.plan.cell(arm, rate, seed, budget))

    def rate(self, arm: StudyArm) -> float | None:
        """Return the best rate of an arm at the largest budget; None until all of them were tried.

        A run that crashed, or whose score is not finite, is worse than any other.
        """
        config, scores = self.plan.config, {}
        for rate in config.rates:
            row = self.row(arm, rate, self.plan.seed, config.budgets[-1])
            if row is None:
                return None
            scores[rate] = score(row, config.measure)
        return max(scores, key=lambda rate: scores[rate])

    def fresh(self, arm: StudyArm, budget: int) -> dict[int, Row]:
        """Return the rows of an arm at its best rate by fresh seed, without those that crashed."""
        rate = self.rate(arm)
        if rate is None:
            return {}
        seeds = range(self.plan.seed + 1, self.plan.seed + 1 + self.plan.config.seeds)
        rows = {seed: self.row(arm, rate, seed, budget) for seed in seeds}
        return {seed: row for seed, row in rows.items() if row is not None and not row.crashed}

    def used(self) -> list[Row]:
        """Return the rows that are results of this study, those of learning rates included."""
        known = self.plan.cells()
        return [row for cell, row in self._rows.items() if cell in known]

    def crashed(self) -> list[Row]:
        """Return the rows of runs that could not be trained."""
        return [row for row in self.used() if row.crashed]

    def done(self) -> int:
        """Return how many runs have all their rows."""
        config = self.plan.config
        return sum(
            all(self.row(arm, rate, seed, budget) is not None for budget in config.budgets)
            for arm in self.plan.study.arms
            for rate, seed in self._planned(arm)
        )

    def _planned(self, arm: StudyArm) -> Sequence[tuple[float, int]]:
        config, seed = self.plan.config, self.plan.seed
        best = self.rate(arm)
        fresh = [] if best is None else [(best, seed + n) for n in range(1, config.seeds + 1)]
        return [*((rate, seed) for rate in config.rates), *fresh]


def score(row: Row, metric: str) -> float:
    """Return a held-out score such that higher is better; minus infinity for a run that crashed."""
    value = row.metrics.get(metric)
    if row.crashed or value is None or value != value:
        return -inf
    return -value if lower_is_better(metric) else value


def _schedule(train: Train, warmup: int, decay: float) -> Schedule:
    """Return a schedule whose warmup is as many whole steps at every budget."""
    shares = {"warmup": 0.0, "stable": 1 - decay, "decay": decay}
    falling = train.model_copy(update={"schedule": train.schedule.model_copy(update=shares)})
    schedule = with_warmup(falling, round(warmup / train.tokens_per_step))
    assert schedule is not None  # a warmup ends before the first budget decays
    return schedule
