"""`--import`: importing results of another search that are points of this space.

A result is judged as if it had been trained here: the same run, within the caps of this space, measured
at this space's milestones. It gets the next free number, keeps its run folder, counts for no budget, and the
sampler learns of it. Each is imported atomically: run folder, record, then the sampler's trial, each whole or
absent; an import that was killed resumes. The old folder is only read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import create_trial

from composer.language.description.show import resolved_yaml
from composer.language.load import load
from composer.language.parsing.choice import Value
from composer.language.schema.spec import Spec
from composer.language.space import Space
from composer.settings.errors import SpecError, os_message
from composer.training.folder.data_record import fingerprint_of
from composer.training.folder.files import ASIDE, write_text
from composer.training.folder.run_folder import LOCK, SPEC
from search.compare.rungs import milestones, tokens
from search.compare.worst import Worst
from search.errors import Crash, SearchError
from search.objectives import Goals
from search.progress.winners import bring
from search.propose.baselines import baselines
from search.propose.candidates import candidate
from search.propose.feasible import IDENTITY, imported, sampler
from search.propose.optuna_adapter import IMPORTED, OUTCOME, answer
from search.propose.proposals import distributions
from search.propose.requirements import check_search
from search.propose.same_spec import SameSpec
from search.run.import_progress import Arriving, unseen
from search.run.open_store import open_store
from search.store.folder import IMPORT, IMPORTED_RUNS, RECORDS, SPACE, enter
from search.store.ledger import Ledger, Record, Seen
from search.store.locks import exclusive
from search.store.same_data import changes, data_mark
from search.store.store import Store

_LINKED = (".ckpt", ".safetensors")
_STAGED = ".new"


@dataclass(frozen=True)
class Old:
    """Another search: its folder, and the records of its trials and baselines, without finals."""

    folder: Path
    records: list[Record]


@dataclass(frozen=True)
class Arrival:
    """A record translated to this search, without a name yet; for a baseline with the `stem` of its file."""

    record: Record
    spec: Spec
    runs: Path
    stem: str = ""


@dataclass(frozen=True)
class _Translated:
    """The run in this space: a point of it, or a baseline."""

    spec: Spec
    params: dict[str, Value]
    costs: dict[str, float]
    origin: dict[str, Any] = field(default_factory=dict)
    stem: str = ""


@dataclass(frozen=True)
class Refused:
    """Why a record is not imported, with details."""

    reason: str
    detail: str = ""


@dataclass
class Tally:
    """The outcomes of the runs of another search."""

    old: Old
    brought: int = 0
    refused: dict[str, list[str]] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"imported {self.brought} of {len(self.old.records)} runs of {self.old.folder}"]
        for reason, details in self.refused.items():
            first = next((f" ({detail})" for detail in details if detail), "")
            parts.append(f"{reason}: {len(details)}{first}")
        return "; ".join(parts)


def read_old(old: Path, folder: Path) -> Old:
    """Read the search in `old`, whose results are to be imported into `folder`; nothing is written.

    Raises:
        SearchError: it is no search folder, the very same one, or a record in it cannot be read.
    """
    if not (old / SPACE).is_file() or not (old / RECORDS).is_dir():
        raise SearchError(
            f"--import: expected the folder of a search, but there is no {SPACE} with {RECORDS}/ in {old}; "
            "`composer search` prints the folder it works in"
        )
    if old.resolve() == folder.resolve():
        raise SearchError(f"--import: expected the folder of another search, got {old}, which is this one's")
    try:
        ledger = Ledger(old / RECORDS)
    except OSError as error:
        raise SearchError(os_message(error, error.filename or old)) from None
    return Old(old, list(ledger))


def bring_in(
    space: Space,
    folder: Path,
    olds: Sequence[Old],
    storage: str | None = None,
    show_import: Arriving = unseen,
) -> list[Tally]:
    """Import the results of other searches into the one in `folder`, which is created if missing.

    `show_import` is called with the progress.

    Raises:
        SpecError, SearchError: as at the start of a search; or a file cannot be read or written.
    """
    check_search(space)
    try:
        enter(folder, space)
        with open_store(folder, space, storage) as store, exclusive(folder / IMPORT):
            try:
                importing = _Import(space, folder, store, show_import)
                return [importing.bring_in(old) for old in olds]
            except Exception as error:
                if not store.is_lost(error):
                    raise
                raise SearchError(store.lost(error, 0)) from None
    except OSError as error:
        raise SearchError(
            f"{os_message(error, error.filename or folder)}\n"
            "runs imported so far are intact; run the same command to continue"
        ) from None


class ImportFilter:
    """Judges which records of other searches are results of this space."""

    def __init__(self, space: Space) -> None:
        self.space, self.config = space, space.search
        self.goals = Goals(self.config.objectives)
        self.baselines = baselines(space)
        self._same = SameSpec(space)

    def judged(self, old: Old, record: Record) -> Arrival | Refused:
        """Translate a record to this space, or return why that is impossible."""
        if record.status == "running":
            return Refused("still running there")
        spec = _spec(old.folder / record.folder / SPEC)
        if spec is None and record.status != "crashed":
            return Refused("no spec in their run folders", str(old.folder / record.folder))
        entered = self._entered(record, spec)
        if isinstance(entered, Refused):
            return entered
        new, costs = entered.spec, entered.costs
        assert new.train is not None
        if spec is not None and spec.train is not None and spec.train.seed != new.train.seed:
            return Refused("trained with another seed", f"train.seed is {spec.train.seed} there")
        now = fingerprint_of(new)
        other = changes(record, old.folder / record.folder, now) if now else []
        if other:
            return Refused("trained on other data", f"{_name(record)}: {other[0]}")
        seen = self._seen(record, new, costs)
        if isinstance(seen, Refused):
            return seen
        came = replace(
            record,
            name="",
            kind="baseline" if entered.stem else "trial",
            asked=None,
            params=entered.params,
            costs=costs,
            folder="",
            seen=seen,
            # its origin names trials of the other search
            origin=entered.origin,
            whole=tokens(new),
            imported=str(old.folder),
            adopted="",
            data=data_mark(new),
        )
        return Arrival(came, new, old.folder / record.folder, entered.stem)

    def _entered(self, record: Record, spec: Spec | None) -> _Translated | Refused:
        """Find the run among the baselines and the points of this space."""
        if record.identity in self.baselines:
            own = self.baselines[record.identity]
            if record.status == "stopped":
                return Refused("stopped there, a baseline here", own.stem)
            return _Translated(own.spec, {}, own.costs, own.origin, own.stem)
        point = self._same.find(record.identity, record.params, spec)
        if isinstance(point, str) and record.kind == "baseline":
            return Refused("a baseline there that is neither one here nor a point of this space", record.name)
        if isinstance(point, str):
            return Refused("not a point of this space", ": ".join(filter(None, [_name(record), point])))
        proposed = candidate(self.space, lambda parameter: point.params[parameter.name])
        if proposed.verdict != "feasible" or proposed.spec is None:
            by = [f"{cap} by {100 * share:.3g} %" for cap, share in proposed.constraints.items() if share > 0]
            return Refused("over the caps of this space", f"{_name(record)}: {', '.join(by)}")
        return _Translated(proposed.spec, proposed.params, proposed.costs)

    def _seen(self, record: Record, spec: Spec, costs: dict[str, float]) -> list[Seen] | Refused:
        """Return the results at the milestones of this space that the record reached."""
        stops, seen = milestones(self.config.rungs, spec, costs), list[Seen]()
        for stop in stops:
            at = next((seen for seen in record.seen if seen.tokens in (stop, _read(spec, stop))), None)
            if at is None:
                break
            try:
                seen.append(Seen(at.tokens, self.goals.measured(at.metrics, costs), at.metrics))
            except (SearchError, Crash):
                if record.status != "crashed":
                    return Refused("an objective was not measured", self._missing(record, at, costs))
                break
        if record.status == "stopped" and record.tokens < stops[0]:
            return Refused("stopped before the first rung here", _name(record))
        if len(seen) < {"finished": len(stops), "stopped": 1}.get(record.status, 0):
            return Refused("not measured at the rungs here", f"{_name(record)}: {stops[len(seen)]} tokens")
        return seen

    def _missing(self, record: Record, at: Seen, costs: dict[str, float]) -> str:
        lacking = [name for name in self.goals.names if name not in at.metrics and name not in costs]
        return f"{_name(record)}: {', '.join(lacking) or 'not finite'}"


class _Import:
    """Imports records into one search."""

    def __init__(self, space: Space, folder: Path, store: Store, show_import: Arriving) -> None:
        self.show_import = show_import
        self.door, self.folder, self.store = ImportFilter(space), folder, store
        self.ledger = Ledger(store)
        self.worst = Worst(self.ledger.digest, self.door.goals)
        self.study = store.study(self.door.goals, sampler(space))
        self._distributions = distributions(space)

    def bring_in(self, old: Old) -> Tally:
        """Import all accepted records in the order in which they were trained."""
        tally = Tally(old)
        self._finish()
        for done, record in enumerate(old.records):
            self.show_import(old.folder, done, len(old.records))
            came = self._brought(old, record)
            if came is None:
                tally.brought += 1
            else:
                tally.refused.setdefault(came.reason, []).append(came.detail)
        return tally

    def _brought(self, old: Old, record: Record) -> Refused | None:
        known = Refused("known here already")
        if self.ledger.find(record.identity) is not None:
            return known
        came = self.door.judged(old, record)
        if isinstance(came, Refused):
            return came
        staged = self._staged(came)
        with self._alone():
            if self.ledger.find(record.identity) is not None:
                shutil.rmtree(staged)
                return known
            self._settle(came, staged)
        return None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with self.store.lock():
            self.ledger.refresh()
            yield

    def _staged(self, came: Arrival) -> Path:
        """Copy a run folder to a temporary place, before the lock is taken."""
        staged = self.folder / IMPORTED_RUNS / f"{came.record.identity}{_STAGED}"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for path in sorted(came.runs.rglob("*")):
            target = staged / path.relative_to(came.runs)
            if path.is_file() and path.name not in (LOCK, SPEC) and path.suffix != ASIDE:
                target.parent.mkdir(parents=True, exist_ok=True)
                bring(path, target, path.suffix in _LINKED)
        # the same run, under the name and the caps of this space
        write_text(staged / SPEC, resolved_yaml(came.spec))
        return staged

    def _settle(self, came: Arrival, staged: Path) -> None:
        """Name it, then write run folder, record and trial, so that a kill in between is harmless."""
        record = came.record
        record.name = self.ledger.new_name(came.stem)
        # not in `trials`, where the folder of a killed import would collide with another trial's
        record.folder = f"{IMPORTED_RUNS}/{record.name}"
        place = self.folder / record.folder
        shutil.rmtree(place, ignore_errors=True)
        os.replace(staged, place)
        self.ledger.add(record)
        if record.kind == "trial":
            self._tell(record)

    def _finish(self) -> None:
        """Tell the sampler about records of a killed import that it does not know."""
        with self._alone():
            numbers = _numbers(self.study)
            for record in self.ledger.trials():
                if record.imported and (record.asked is None or numbers.get(record.identity) != record.asked):
                    self._tell(record, numbers.get(record.identity))

    def _tell(self, record: Record, number: int | None = None) -> None:
        """Add a completed trial for a record; `number` is that of a trial that exists already."""
        if number is None:
            proposed = candidate(self.door.space, lambda parameter: record.params[parameter.name])
            constraints, values, facts = answer(proposed, record, self.worst)
            trial = create_trial(
                params=record.params,
                distributions={name: self._distributions[name] for name in record.params},
                values=values,
                constraints=constraints,
                user_attrs=facts | {OUTCOME: IMPORTED},
                system_attrs=imported(record.identity),
            )
            self.study.add_trial(trial)
            number = _numbers(self.study)[record.identity]
        record.asked = number
        self.ledger.save(record)


def _numbers(study: Study) -> dict[str, int]:
    """Return the numbers of the trials of imported runs, by identity."""
    trials = study.get_trials(deepcopy=False)
    return {
        str(trial.system_attrs.get(IDENTITY)): trial.number
        for trial in trials
        if trial.user_attrs.get(OUTCOME) == IMPORTED
    }


def _read(spec: Spec, stop: int) -> int:
    """Return the tokens read when training pauses at `stop`, in whole optimizer steps."""
    assert spec.train is not None
    step = spec.train.tokens_per_step
    return max(1, min(spec.train.steps, -(-stop // step))) * step


def _spec(path: Path) -> Spec | None:
    try:
        return load(path)
    except SpecError:
        return None


def _name(record: Record) -> str:
    return f"{record.kind} {record.name}"
