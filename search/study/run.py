"""The loop of a study's worker: claim a run that is due, train it to each of its budgets, append the rows.

A run trains at its stable rate to where the rate falls for a budget, decays, is measured, and goes on from
the state before the decay (`composer.training.lengthen`). Records and leases are those of a search, so that
another worker, or the same command later, continues what a worker left. The row of a budget is appended
before the record says so, and never twice.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

from composer import cost
from composer.language.schema.spec import Spec
from composer.training.folder.run_folder import SPEC, read_spec
from search.errors import Crash, SearchError
from search.run.machine import available_cores
from search.run.open_store import open_shared
from search.run.worker import CRASHES, TakenOver, Worker, opened
from search.store.ledger import Record, Seen, free
from search.store.store import Store
from search.study.load import Study, StudyArm
from search.study.plan import Plan, Unit
from search.study.rows import Row, Rows
from search.trainer import Step, Train, train

LOCK = "rows.lock"

Event: TypeAlias = Literal["begin", "started", "progress", "row", "crashed", "note", "end"]


@dataclass
class Progress:
    """Where a study stands, as shown while it runs.

    Attributes:
        done: runs with all their rows, of `runs`.
        run: the run in training, in words; `step` how far it is, `target` where it goes next.
        row: the last row.
        note: anything else to show.
        worker: the number of the local worker; 0 for this process itself.
    """

    runs: int
    done: int = 0
    run: str = ""
    step: Step = field(default_factory=lambda: Step(0))
    target: int = 0
    row: Row | None = None
    note: str = ""
    worker: int = 0


Watch: TypeAlias = Callable[[Event, Progress], None]


def silent(event: Event, progress: Progress) -> None:
    """Ignore all events."""


def run_study(
    study: Study,
    folder: Path,
    rows: Path,
    train: Train = train,
    watch: Watch = silent,
    storage: str | None = None,
) -> None:
    """Train all runs of `study` in `folder` that lack a row in the file `rows`, beside other workers.

    Raises:
        SearchError: the folder, the rows or the database cannot be used, or runs crash in a row.
        DataError: the data cannot be used.
        KeyboardInterrupt: a signal that ends training; what was trained is saved.
    """
    with open_shared(study, folder, storage) as store:
        opens = partial(_Worker, study, folder, rows, store, train, watch)
        opened(store, opens).run()


class _Worker(Worker):
    def __init__(
        self, study: Study, folder: Path, rows: Path, store: Store, train: Train, watch: Watch
    ) -> None:
        super().__init__(store)
        self.study, self.folder, self.train, self.watch = study, folder, train, watch
        self.plan, self.rows = Plan(study), Rows(rows, folder / LOCK)
        self.arms = {(arm.name, arm.size): arm for arm in study.arms}
        self.progress = Progress(self.plan.size())
        self.crashes: list[str] = []

    def run(self) -> None:
        """Work until no run is due."""
        self.rows.rewrite(self.plan.current)
        self._count()
        self.watch("begin", self.progress)
        self.repeat(self._do_next)

    def _do_next(self) -> bool | None:
        """Train the next run, or wait for others; return True if no run is due."""
        record = self._next()
        if record is None:
            self._count()
            self.watch("end", self.progress)
            return True
        if record.worker == self.me:
            self._work(record)
        else:
            self.note("waiting for other workers to end")
            self.pause()
        return None

    def _next(self) -> Record | None:
        """Claim the next run, or return one that another worker trains and others may wait for, or None."""
        with self.alone():
            others = self.store.others()
            known = self.rows.read()
            running = [record for record in self.ledger if record.status == "running"]
            waiting = None
            for unit in self.plan.due(known):
                wanted = self._params(unit)
                record = next((each for each in running if _same_run(each.params, wanted)), None)
                if record is None:
                    return self._claim(unit, wanted)
                if not free(record, others):
                    waiting = record
                elif self._is_past(record.folder, unit):
                    # budgets have changed: it cannot go back
                    record.status = "stopped"
                    self.ledger.save(record)
                    return self._claim(unit, wanted)
                else:
                    record.worker, record.params = self.me, wanted
                    self.ledger.save(record)
                    return record
            return waiting

    def _claim(self, unit: Unit, params: dict[str, Any]) -> Record:
        name, folder = self.ledger.new_name(), self._folder(unit)
        record = Record(name, "trial", f"{folder}-{name}", None, params, {}, folder, worker=self.me)
        return self.ledger.add(record)

    def _params(self, unit: Unit) -> dict[str, Any]:
        return {
            "arm": unit.arm.name,
            "size": unit.arm.size,
            "rate": unit.rate,
            "seed": unit.seed,
            "mark": self._mark(unit),
            "budgets": list(unit.budgets),
        }

    def _mark(self, unit: Unit) -> str:
        """Return the mark of a unit's folder: an older one where that folder is there."""
        marks = self.plan.marks(unit.arm)
        return next((each for each in marks if (self.folder / _folder(unit, each)).exists()), marks[0])

    def _folder(self, unit: Unit) -> str:
        """Return the run folder of a unit: that of the same run, unless it is past the first budget."""
        folder = _folder(unit, self._mark(unit))
        return f"{folder}-from-{unit.budgets[0]}" if self._is_past(folder, unit) else folder

    def _is_past(self, folder: str, unit: Unit) -> bool:
        """Whether a run went on to a larger budget than the first of a unit."""
        if not (self.folder / folder / SPEC).exists():
            return False
        train = read_spec(self.folder / folder).train
        return train is not None and train.tokens > unit.budgets[0]

    def _work(self, record: Record) -> None:
        """Train a run to each of its budgets; append a row for each."""
        arm = self.arms[record.params["arm"], record.params["size"]]
        rate, seed = record.params["rate"], record.params["seed"]
        self.progress.run, self.progress.step = title(arm, rate, seed), Step(0)
        self.watch("started", self.progress)
        try:
            for budget in record.params["budgets"]:
                self._train(record, arm, rate, seed, budget)
            with self.changing(record):
                record.status, record.ended = "finished", time.time()
            self.crashes.clear()
        except TakenOver:
            self.note(f"{record.folder}: another worker has taken it over")
        except Crash as crash:
            self._crash(record, arm, rate, seed, str(crash))
        self.progress.run = ""
        self._count()

    def _train(self, record: Record, arm: StudyArm, rate: float, seed: int, budget: int) -> None:
        spec = self.plan.spec(arm, rate, seed, budget)
        cell = self.plan.cell(arm, rate, seed, budget)
        if any(row.cell == cell for row in self._known()):
            return
        self.progress.target = budget
        pace = _Pace(record)

        def report(step: Step) -> None:
            self.progress.step = step
            pace.step(step.tokens)
            self.watch("progress", self.progress)

        try:
            trained = self.train(spec, self.folder / record.folder, None, report)
        finally:
            pace.keep()
        row = self._row(arm, rate, seed, budget, spec)
        row = replace(
            row, tokens=trained.tokens, metrics=trained.metrics, seconds=pace.seconds(trained.tokens)
        )
        with self.changing(record):
            self.rows.add(row)
            record.seen.append(Seen(trained.tokens, (), trained.metrics))
        self.progress.row = row
        self._count()
        self.watch("row", self.progress)

    def _row(self, arm: StudyArm, rate: float, seed: int, budget: int, spec: Spec) -> Row:
        costs = cost(spec)
        assert costs.train_flops is not None
        return Row(
            arm=arm.name,
            size=arm.size,
            rate=rate,
            seed=seed,
            budget=budget,
            spec=self.plan.cell(arm, rate, seed, budget).spec,
            data=self.plan.data,
            tokens=0,
            params=costs.params,
            flops=float(costs.train_flops),
            seconds=0.0,
            versions=_versions(),
            machine=_machine(),
            time=datetime.now().astimezone().isoformat(timespec="seconds"),
        )

    def _crash(self, record: Record, arm: StudyArm, rate: float, seed: int, reason: str) -> None:
        """Append a row without metrics for each budget that was not reached."""
        known = {row.cell for row in self._known()}
        with self.changing(record):
            for budget in record.params["budgets"]:
                if self.plan.cell(arm, rate, seed, budget) not in known:
                    spec = self.plan.spec(arm, rate, seed, budget)
                    row = replace(self._row(arm, rate, seed, budget, spec), crashed=reason)
                    self.rows.add(row)
                    self.progress.row = row
            record.status, record.reason, record.ended = "crashed", reason, time.time()
        self.watch("crashed", self.progress)
        self.crashes.append(f"  {self.progress.run}: {reason}")
        if len(self.crashes) >= CRASHES:
            raise SearchError(f"{CRASHES} runs in a row could not be trained:\n" + "\n".join(self.crashes))

    def _known(self) -> list[Row]:
        return self.plan.current(self.rows.read())

    def _count(self) -> None:
        self.progress.done = self.plan.results(self.rows.read()).done()

    def note(self, text: str) -> None:
        """Show a message, once."""
        if text != self.progress.note:
            self.progress.note = text
            self.watch("note", self.progress)


class _Pace:
    """The measured speed of a run, over all starts: kept in its record, without starting up and pauses."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.first: tuple[int, float] | None = None
        self.last: tuple[int, float] | None = None

    def step(self, tokens: int) -> None:
        """Note how far it is now."""
        self.last = (tokens, time.monotonic())
        self.first = self.first or self.last

    def keep(self) -> None:
        """Add what was measured to the record."""
        if self.first is not None and self.last is not None:
            pace = self.record.origin
            pace["tokens"] = pace.get("tokens", 0) + self.last[0] - self.first[0]
            pace["seconds"] = pace.get("seconds", 0.0) + self.last[1] - self.first[1]
            self.record.seconds = pace["seconds"]
            self.first = self.last = None

    def seconds(self, tokens: int) -> float:
        """Return the time of a run of these tokens at the measured speed; 0 if it was not measured."""
        pace = self.record.origin
        return tokens * pace["seconds"] / pace["tokens"] if pace.get("tokens") else 0.0


def title(arm: StudyArm, rate: float, seed: int) -> str:
    """Return a run in words."""
    return f"{arm.title} lr {rate:g} seed {seed}"


def _same_run(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two claims are of one run, whatever its budgets."""
    return {**one, "budgets": None} == {**other, "budgets": None}


def _folder(unit: Unit, mark: str) -> str:
    return f"runs/{unit.arm.title.replace(' ', '-')}-lr{unit.rate:g}-seed{unit.seed}-{mark}"


def _versions() -> dict[str, str]:
    named = {"composer": "attention-composer", "torch": "torch"}
    return {
        **{name: version(package) for name, package in named.items()},
        "python": platform.python_version(),
    }


def _machine() -> str:
    threads = _threads()
    return f"{platform.processor() or platform.machine()}, {threads} thread{'s' if threads > 1 else ''}"


def _threads() -> int:
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return min(available_cores(), int(allowed)) if allowed.isdecimal() and int(allowed) else available_cores()
