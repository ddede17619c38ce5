"""Who works on what: one record for each spec that is or was trained, written before work begins.

The ledger is the truth about training; the journal is what the sampler knows of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from composer.training.files import write_text
from search.errors import SearchError
from search.goals import Values

Status: TypeAlias = Literal["running", "finished", "stopped", "crashed"]


@dataclass
class Seen:
    """What was measured at one milestone."""

    tokens: int
    values: Values
    metrics: dict[str, float]


@dataclass
class Record:
    """One spec and its training.

    Attributes:
        name: the number of a trial, or the name of a baseline.
        kind: whether it counts as a trial.
        identity: the run hash of the spec.
        asked: the number of the Optuna trial that it answers; None for a baseline.
        params: the answers that lead to the spec; empty for a baseline.
        costs: by the names of the cost metrics.
        folder: its run folder, below the search folder.
        seen: one entry for each milestone reached.
        reason: why it crashed.
        seconds: time spent training, over all starts.
    """

    name: str
    kind: Literal["trial", "baseline"]
    identity: str
    asked: int | None
    params: dict[str, Any]
    costs: dict[str, float]
    folder: str
    status: Status = "running"
    seen: list[Seen] = field(default_factory=list)
    reason: str = ""
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """Training tokens at the last milestone."""
        return self.seen[-1].tokens if self.seen else 0

    @property
    def values(self) -> Values | None:
        """The objectives at the last milestone."""
        return self.seen[-1].values if self.seen else None


class Ledger:
    """All records of a search, kept in one file each below `folder`."""

    def __init__(self, folder: Path) -> None:
        """Read what is there.

        Raises:
            SearchError: a record cannot be read.
        """
        self._folder = folder
        self._records: dict[str, Record] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.json"), key=_in_order):
            record = _read(path)
            self._records[record.identity] = record

    def __iter__(self) -> Iterator[Record]:
        """Yield the records, baselines first, trials in the order in which they began."""
        return iter(self._records.values())

    def find(self, identity: str) -> Record | None:
        """Return the record of a spec, if it is or was worked on."""
        return self._records.get(identity)

    def trials(self) -> list[Record]:
        """Return the records that count as trials."""
        return [record for record in self if record.kind == "trial"]

    def claim(self, identity: str, asked: int, params: dict[str, Any], costs: dict[str, float]) -> Record:
        """Take on a spec as the next trial."""
        number = str(1 + max((int(record.name) for record in self.trials()), default=-1))
        return self._add(Record(number, "trial", identity, asked, params, costs, f"trials/{number}"))

    def claim_baseline(self, stem: str, identity: str, costs: dict[str, float]) -> Record:
        """Take on a spec as a baseline, named after its file."""
        taken = {record.name for record in self}
        names = (stem if n == 1 else f"{stem}-{n}" for n in range(1, len(taken) + 2))
        # a trial's name is a number
        name = next(name for name in names if name not in taken and not name.isdecimal())
        return self._add(Record(name, "baseline", identity, None, {}, costs, f"baselines/{name}"))

    def save(self, record: Record) -> None:
        """Write a record whole."""
        path = self._folder / f"{record.kind}-{record.name}.json"
        write_text(path, json.dumps(asdict(record), indent=1) + "\n")

    def _add(self, record: Record) -> Record:
        assert record.identity not in self._records
        self.save(record)
        self._records[record.identity] = record
        return record


def _in_order(path: Path) -> tuple[str, int, str]:
    kind, _, name = path.stem.partition("-")
    return kind, int(name) if name.isdecimal() else 0, name


def _read(path: Path) -> Record:
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        seen = [Seen(item["tokens"], tuple(item["values"]), item["metrics"]) for item in fields.pop("seen")]
        return Record(**fields, seen=seen)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SearchError(
            f"{path}: expected the record of a trial, but it cannot be read ({error}); "
            "delete it to forget that trial"
        ) from None
