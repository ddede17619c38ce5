"""`metrics.csv`: one row per logging interval and per evaluation.

Rows are appended as they come; what a killed run wrote after its last checkpoint, half a row included, is
cut off when it goes on. No column depends on the clock, so the same run writes the same file.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from composer.training.files import write_text

PROGRESS = ("step", "tokens", "lr", "train_loss")
"""The columns that every row fills; those of an evaluation follow."""


class MetricsFile:
    """Appends to one `metrics.csv`."""

    def __init__(self, path: Path, scores: Sequence[str]) -> None:
        """`scores` names what an evaluation measures, in the order of its columns."""
        self.path, self.columns = path, [*PROGRESS, *scores]

    def cut(self, step: int) -> None:
        """Keep the header and the rows up to optimizer step `step`."""
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_text(self.path, "".join([_line(self.columns), *map(self._row, kept)]))

    def append(self, row: Mapping[str, float]) -> None:
        """Add one row; columns it lacks stay empty."""
        with self.path.open("ab") as file:
            file.write(self._row(row).encode())

    def sync(self) -> None:
        """Bring what was appended onto the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def _row(self, row: Mapping[str, float]) -> str:
        assert set(row) <= set(self.columns)
        return _line([repr(row[name]) if name in row else "" for name in self.columns])


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the whole rows of a `metrics.csv`, each without its empty columns; no file is no rows."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    whole = text[: text.rfind("\n") + 1]
    return [
        {name: _number(cell) for name, cell in row.items() if cell}
        for row in csv.DictReader(whole.splitlines())
    ]


def _number(cell: str) -> float:
    return int(cell) if cell.isdigit() else float(cell)


def _line(cells: Sequence[str]) -> str:
    return ",".join(cells) + "\n"
