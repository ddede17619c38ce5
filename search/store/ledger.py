"""The ledger: one record for each spec that is or was trained, written before training begins.

The ledger is the authority on training; the journal is what the sampler knows about it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import Any, Literal, Protocol, TypeAlias

from composer.training.folder.files import write_text
from search.errors import SearchError
from search.objectives import Values
from search.pool import Pool
from search.store.digest import Digest

Status: TypeAlias = Literal["running", "finished", "stopped", "crashed"]
ENDED: tuple[Status, ...] = ("finished", "stopped", "crashed")


@dataclass
class Seen:
    """The results at one milestone.

    Attributes:
        tau_bound: if the rung was retired because it ranks badly, the upper confidence bound of its
            Kendall's tau with the end (`search.compare.rung_check`); None if it decided.
    """

    tokens: int
    values: Values
    metrics: dict[str, float]
    tau_bound: float | None = None


@dataclass
class Record:
    """One spec and its training.

    Attributes:
        name: the number of a trial, or the name of a baseline; of a final, both and which final.
        kind: whether it counts as a trial; a final is a retrained trial or baseline.
        identity: the run hash of the spec; for a final with a suffix, since the hash excludes the seed.
        asked: the number of its Optuna trial; None for a baseline.
        params: the parameter values that lead to the spec; empty for a baseline.
        costs: by the names of the cost metrics.
        folder: its run folder, below the search folder.
        seen: the results at each milestone reached.
        reason: why it crashed.
        seconds: time spent training, over all starts.
        worker: the name of the worker that trains it or trained it last.
        started: when it was claimed, and `ended` when it ended, in seconds since 1970 by the worker's clock.
        origin: for a child of evolution its `parents` and `moves`; for a baseline
            matched to caps, its `moves` and `matched` costs.
        whole: training tokens of the whole run; 0 in searches of older versions.
        spans: the intervals in which it was trained, in seconds since 1970.
        again: for a final, the key of the record it retrains (`of`), the multiple of its `lr`, and the
            number of the fresh `seed`, 0 for the spec's own.
        imported: the folder of the search that trained it, if another one did.
        adopted: for a trial that equals a baseline added later, the `stem` of the baseline's file.
        data: the `place` of its training data and the `digest` of their content; empty for tasks
            without files and in searches of older versions.
        lost: for a crashed one, the training tokens read after its last milestone, as far as is known.
    """

    name: str
    kind: Literal["trial", "baseline", "final"]
    identity: str
    asked: int | None
    params: dict[str, Any]
    costs: dict[str, float]
    folder: str
    status: Status = "running"
    seen: list[Seen] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0
    worker: str = ""
    started: float = 0.0
    ended: float = 0.0
    origin: dict[str, Any] = field(default_factory=dict)
    whole: int = 0
    spans: list[tuple[float, float]] = field(default_factory=list)
    again: dict[str, Any] = field(default_factory=dict)
    imported: str = ""
    adopted: str = ""
    lost: int = 0
    data: dict[str, str] = field(default_factory=dict)

    @property
    def role(self) -> Literal["trial", "baseline", "final"]:
        """The kind it counts as: an adopted trial is a baseline."""
        return "baseline" if self.adopted else self.kind

    @property
    def key(self) -> str:
        """Its name among all records of the search."""
        # many mappings have it as a key
        return intern(f"{self.kind}-{self.name}")

    @property
    def tokens(self) -> int:
        """Training tokens at the last milestone."""
        return self.seen[-1].tokens if self.seen else 0

    @property
    def read(self) -> int:
        """All training tokens read, including those after the last milestone of a crashed run."""
        return self.tokens + self.lost

    @property
    def values(self) -> Values | None:
        """The objectives at the last milestone."""
        return self.seen[-1].values if self.seen else None


class Records(Protocol):
    """Where the records of all workers are stored."""

    def changed(self) -> list[Record]:
        """Return the records created or changed since the last call; at first all."""

    def put(self, record: Record) -> None:
        """Write a record atomically."""


class RecordFiles:
    """Records in a folder, one file for each."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._prefix = folder, f"{folder}{os.sep}"
        self._known: dict[str, _Mark] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def changed(self) -> list[Record]:
        """Read the files that changed.

        Raises:
            SearchError: a record cannot be read.
        """
        with os.scandir(self._folder) as entries:
            marks = {entry.name: _mark(entry.stat()) for entry in entries if entry.name.endswith(".json")}
        return self._new(marks)

    def changed_among(self, keys: Iterable[str]) -> list[Record]:
        """Read those of the files of these records that changed.

        Raises:
            SearchError: a record cannot be read.
        """
        marks = {}
        for name in {f"{key}.json" for key in keys}:
            with suppress(FileNotFoundError):
                marks[name] = _mark(os.stat(self._prefix + name))
        return self._new(marks)

    def put(self, record: Record) -> None:
        """Write a record's file atomically."""
        path = self._folder / f"{record.key}.json"
        write_text(path, record_text(record))
        self._known[path.name] = _mark(path.stat())

    def put_changed(self, record: Record) -> None:
        """Write a record's file, unless it has the same content already."""
        text = record_text(record)
        with suppress(OSError, UnicodeDecodeError):
            if (self._folder / f"{record.key}.json").read_text(encoding="utf-8") == text:
                return
        self.put(record)

    def _new(self, marks: dict[str, _Mark]) -> list[Record]:
        new = []
        for name, mark in marks.items():
            if mark != self._known.get(name):
                new.append(_read(self._prefix + name))
                self._known[name] = mark
        return new


class Ledger:
    """All records of a search, as of this worker's last refresh."""

    def __init__(self, source: Path | Records) -> None:
        """Read all records; `source` may be their folder.

        Raises:
            SearchError: a record cannot be read.
        """
        self._source = RecordFiles(source) if isinstance(source, Path) else source
        self.digest = Digest()
        self._records: dict[str, Record] = {}
        self._trials: list[Record] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Read other workers' changes; unchanged records stay the same objects."""
        self._take(self._source.changed())

    def __iter__(self) -> Iterator[Record]:
        """Yield records that began as baselines, then those that began as trials, in order."""
        return (record for record in self._records.values() if record.kind != "final")

    def finals(self) -> list[Record]:
        """Return the records of finals, in order."""
        return self._standing(self.digest.finals.values())

    def every(self) -> list[Record]:
        """Return all records."""
        return list(self._records.values())

    def running(self) -> list[Record]:
        """Return the records that have not ended."""
        return self._standing(self.digest.running.values())

    def count(self) -> int:
        """Return the number of records."""
        return len(self._records)

    def find(self, identity: str) -> Record | None:
        """Return the record of a spec, or None."""
        return self._records.get(identity)

    def trials(self) -> list[Record]:
        """Return the records that count as trials."""
        if self._trials is None:
            self._trials = [record for record in self if record.role == "trial"]
        return [*self._trials]

    def claim(
        self,
        identity: str,
        asked: int,
        params: dict[str, Any],
        costs: dict[str, float],
        **more: Any,
    ) -> Record:
        """Claim a spec as the next trial; call under the store's lock after a refresh."""
        number = self.new_name()
        folder = f"trials/{number}"
        return self.add(Record(number, "trial", identity, asked, params, costs, folder, **more))

    def claim_baseline(self, stem: str, identity: str, costs: dict[str, float], **more: Any) -> Record:
        """Claim a spec as a baseline named after its file; call under the store's lock after a refresh."""
        name = self.new_name(stem)
        folder = f"baselines/{name}"
        return self.add(Record(name, "baseline", identity, None, {}, costs, folder, **more))

    def adopt(self, record: Record, stem: str) -> None:
        """Make a trial count as a baseline; call under the store's lock after a refresh.

        Baselines are never stopped: a trial that was stopped at a rung becomes free to be continued.
        """
        record.adopted = stem
        if record.status == "stopped":
            record.status, record.worker, record.ended = "running", "", 0.0
        self.save(record)

    def claim_final(self, base: Record, name: str, again: dict[str, Any], **more: Any) -> Record:
        """Claim a final of a trial or a baseline; call under the store's lock after a refresh."""
        identity, folder = _final_identity(base, name), f"finals/{name}"
        params, costs = dict(base.params), dict(base.costs)
        again = {"of": base.key, **again}
        return self.add(Record(name, "final", identity, None, params, costs, folder, again=again, **more))

    def save(self, record: Record) -> None:
        """Write a record atomically; call under the store's lock."""
        self._trials = None
        self._source.put(record)
        self.digest.update(record)

    def new_name(self, stem: str = "") -> str:
        """Return a free name: the next number for a trial, or one from the file's `stem` for a baseline."""
        if not stem:
            return str(1 + self.digest.last_number)
        taken = {record.name for record in self}
        names = (stem if n == 1 else f"{stem}-{n}" for n in range(1, len(taken) + 2))
        # a trial's name is a number
        return next(name for name in names if name not in taken and not name.isdecimal())

    def add(self, record: Record) -> Record:
        """Add a record for a spec that has none; call under the store's lock after a refresh."""
        assert record.identity not in self._records
        record.started = record.started or time.time()
        self.save(record)
        self._take([record])
        return record

    def _take(self, changed: list[Record]) -> None:
        """Take over new and changed records, in order."""
        if changed:
            self._trials = None
        in_place = [self._put_in_place(record) for record in sorted(changed, key=in_order)]
        if not all(in_place):
            standing = (record for record in self.digest.records.values() if not self._orphaned(record))
            self._records = {record.identity: record for record in sorted(standing, key=in_order)}

    def _put_in_place(self, record: Record) -> bool:
        """Take over a record; return whether it changes the order of no other."""
        before, other = self.digest.records.get(record.key, record), self.find(record.identity)
        self.digest.update(record)
        if other is None:
            last = next(reversed(self._records.values()), None)
            in_place = record.kind == "trial" and last is not None and in_order(last) < in_order(record)
        else:
            in_place = other.key == record.key
        if in_place and before.identity == record.identity:
            self._records[record.identity] = record
            return True
        return False

    def _standing(self, records: Iterable[Record]) -> list[Record]:
        """Return those of some records that are the record of their spec, in order."""
        return sorted((each for each in records if self.find(each.identity) is each), key=in_order)

    def _orphaned(self, record: Record) -> bool:
        """Whether it is a final of a deleted record, whose name another record may have."""
        if record.kind != "final":
            return False
        base = self.digest.records.get(record.again["of"])
        return base is None or record.identity != _final_identity(base, record.name)


def free(record: Record, others: set[str]) -> bool:
    """Whether a record is abandoned: it has not ended, and its worker is not among the live `others`."""
    return record.status == "running" and record.worker not in others


def _final_identity(base: Record, name: str) -> str:
    return f"{base.identity}-{name}"


_ALIKE = {"kind", "status", "worker", "costs", "data"}
"""Fields that are equal in many records, and are replaced as a whole if at all."""
_POOL = Pool()

_Mark: TypeAlias = tuple[int, int, int]


def _mark(stat: os.stat_result) -> _Mark:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def in_order(record: Record) -> tuple[str, int, str]:
    """Return a sort key: baselines, finals, then trials by number."""
    return record.kind, int(record.name) if record.kind == "trial" else 0, record.name


def record_text(record: Record) -> str:
    """Write a record as JSON."""
    # `asdict` would copy every value, while others wait for the lock
    fields = {**vars(record), "seen": [vars(seen) for seen in record.seen]}
    return json.dumps(fields, indent=1) + "\n"


def record_of(text: str) -> Record:
    """Read a record from JSON.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is no record.
    """
    fields = json.loads(text)
    seen = [
        Seen(item["tokens"], tuple(item["values"]), _interned(item["metrics"]), item.get("tau_bound"))
        for item in fields.pop("seen")
    ]
    spans = [(begun, ended) for begun, ended in fields.pop("spans", ())]
    fields["params"] = _interned(fields["params"])
    for name in _ALIKE & fields.keys():
        fields[name] = _POOL.shared(name, fields[name])
    return Record(**fields, seen=seen, spans=spans)


def _interned(values: dict[str, Any]) -> dict[str, Any]:
    """Return a mapping whose keys are those of all other records."""
    return {intern(name): value for name, value in values.items()}


def _read(path: str) -> Record:
    # paths as objects would take a third of the time, of which each worker spends much on others' records
    try:
        with open(path, encoding="utf-8") as file:
            return record_of(file.read())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SearchError(
            f"{path}: expected the record of a trial, but it cannot be read ({error}); "
            "delete it to forget that trial"
        ) from None
