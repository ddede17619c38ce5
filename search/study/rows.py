"""The rows of a study: one JSON line for each arm, rate, seed and budget that was trained.

The file is made to be committed: rows of any machine may be appended or merged, and a study goes on from
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from composer.training.folder.files import write_text
from search.errors import SearchError
from search.store.locks import exclusive

ROWS = "rows.jsonl"


class Cell(NamedTuple):
    """The key of a row; `spec` is the run hash of the trained spec, wherever its data are."""

    spec: str
    seed: int
    data: str


@dataclass(frozen=True)
class Row:
    """One finished run at one budget.

    Attributes:
        spec: the run hash: the arm, its training, the learning rate and the tokens, not where data are.
        data: the digest of the training data's content; empty for tasks without files.
        budget: training tokens as the study names them, and `tokens` as they were read, in whole steps.
        metrics: held-out scores at the end; empty for one that crashed.
        flops: training FLOPs, forward and backward, of a run of these tokens alone.
        seconds: of a run of these tokens alone, at the measured speed, without starting up.
        crashed: why it could not be trained; else empty.
        versions: of composer, torch and Python.
        machine: the processor, and the threads that it may use.
        time: when it ended, ISO 8601.
    """

    arm: str
    size: str
    rate: float
    seed: int
    budget: int
    spec: str
    data: str
    tokens: int
    params: int
    flops: float
    seconds: float
    metrics: dict[str, float] = field(default_factory=dict)
    crashed: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    time: str = ""

    @property
    def cell(self) -> Cell:
        """The key of the run."""
        return Cell(self.spec, self.seed, self.data)

    def cost(self, name: str) -> float:
        """Return its tokens, flops or seconds."""
        return float(getattr(self, name))


class Rows:
    """The file of rows, shared by all workers that see it; `lock` is a file beside the study's records."""

    def __init__(self, path: Path, lock: Path) -> None:
        self.path, self._lock = path, lock

    def read(self) -> list[Row]:
        """Read all rows; the first of several with the same cell counts, and a torn last line is left out.

        Raises:
            SearchError: a line is not a row.
        """
        return read_rows(self.path)

    def add(self, row: Row) -> bool:
        """Append a row unless there is one of its cell; return whether it was appended."""
        with exclusive(self._lock):
            if any(known.cell == row.cell for known in self.read()):
                return False
            self.path.parent.mkdir(parents=True, exist_ok=True)
            text = self.path.read_bytes() if self.path.exists() else b""
            with self.path.open("ab") as file:
                # what a killed writer left of a line
                file.truncate(text.rfind(b"\n") + 1)
                file.write(f"{_line(row)}\n".encode())
            return True

    def rewrite(self, change: Callable[[list[Row]], list[Row]]) -> None:
        """Replace rows by what `change` makes of them, if that differs."""
        with exclusive(self._lock):
            known = self.read()
            if (new := change(known)) != known:
                write_text(self.path, "".join(f"{_line(row)}\n" for row in new))


def _line(row: Row) -> str:
    return json.dumps(asdict(row))


def read_rows(path: Path) -> list[Row]:
    """Read a file of rows; see `Rows.read`."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    by_cell: dict[Cell, Row] = {}
    for number, line in enumerate(lines[:-1], 1):
        if line.strip():
            row = _row(line, path, number)
            by_cell.setdefault(row.cell, row)
    return list(by_cell.values())


def _row(line: bytes, path: Path, number: int) -> Row:
    try:
        row = Row(**json.loads(line))
        if not isinstance(row.metrics, dict) or not all(
            isinstance(v, float | int) for v in row.metrics.values()
        ):
            raise ValueError("metrics are not numbers")
        if not all(
            isinstance(value, float | int)
            for value in (row.rate, row.seed, row.budget, row.tokens, row.params, row.flops, row.seconds)
        ):
            raise ValueError("a field that is not a number")
        return row
    except (ValueError, TypeError) as error:
        raise SearchError(
            f"{path}:{number}: expected a row of a study, but it cannot be read ({error})"
        ) from None


def stale(rows: Iterable[Row], cells: Iterable[Cell], arms: Iterable[str]) -> dict[str, int]:
    """Count, by arm of the study, the rows that are results of another spec, rate, seed, budget or data."""
    known, counts = set(cells), dict.fromkeys(arms, 0)
    for row in rows:
        if row.cell not in known and row.arm in counts:
            counts[row.arm] += 1
    return {name: count for name, count in counts.items() if count}
