"""`metrics.csv`: one row per logging interval and per evaluation.

Columns whose name begins with `train_` are means over the optimizer steps since the row before: the loss that
is minimised, and what it reports besides, such as the cross-entropy of the last step. Columns whose name
begins with `held_out_` are scores on the eval split, filled where there was an evaluation.

Rows are appended as they come. When a killed run resumes, rows after its last checkpoint, also incomplete
ones, are removed. No column depends on the clock, so the same run writes the same file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from composer.training.folder.errors import TrainingError
from composer.training.folder.files import write_text

TRAIN = "train_"
"""Prefix of the names of training metrics."""
TRAIN_LOSS = f"{TRAIN}loss"
PROGRESS = ("step", "tokens", "lr", TRAIN_LOSS)
"""The columns that every row fills; those of an evaluation follow."""
HELD_OUT = "held_out_"
"""Prefix of the names of scores on held-out data, beside training metrics."""


def held_out(scores: Mapping[str, float]) -> dict[str, float]:
    """Return the scores of an evaluation with the prefix that distinguishes them from training metrics."""
    return {f"{HELD_OUT}{name}": value for name, value in scores.items()}


class MetricsFile:
    """Appends to one `metrics.csv`."""

    def __init__(self, path: Path, scores: Sequence[str], reported: Sequence[str] = ()) -> None:
        """`scores` names what an evaluation measures, `reported` columns of training besides the loss."""
        self.path, self.columns = path, [*PROGRESS, *reported, *(HELD_OUT + name for name in scores)]

    def cut(self, step: int) -> None:
        """Keep the header and the rows up to optimizer step `step`.

        Raises:
            TrainingError: the file is damaged.
        """
        kept = [row for row in read_metrics(self.path) if row["step"] <= step]
        if unknown := sorted({name for row in kept for name in row} - set(self.columns)):
            raise _damaged(self.path, 1, f"the columns {', '.join(self.columns)}", f"{unknown[0]!r}")
        write_text(self.path, "".join([_line(self.columns), *map(self._row, kept)]))

    def append(self, row: Mapping[str, float]) -> None:
        """Add one row; columns it lacks stay empty."""
        with self.path.open("ab") as file:
            file.write(self._row(row).encode())

    def sync(self) -> None:
        """Flush appended rows to the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def _row(self, row: Mapping[str, float]) -> str:
        assert set(row) <= set(self.columns)
        return _line([repr(row[name]) if name in row else "" for name in self.columns])


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the whole rows of a `metrics.csv`, each without its empty columns; no file is no rows.

    Older files name the scores of an evaluation without `held_out_`; they are read as if they had it.

    Raises:
        TrainingError: the file is damaged; with the line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = data[: data.rfind(b"\n") + 1]
    try:
        header, *lines = whole.decode().splitlines() or [""]
    except UnicodeDecodeError as error:
        line = whole.count(b"\n", 0, error.start) + 1
        raise _damaged(path, line, "UTF-8 text", f"the byte 0x{whole[error.start]:02x}") from None
    names = [_column(name) for name in header.split(",")]
    return [_read_row(path, number, names, line) for number, line in enumerate(lines, start=2) if line]


def _read_row(path: Path, number: int, names: Sequence[str], line: str) -> dict[str, float]:
    cells = line.split(",")
    if len(cells) != len(names):
        raise _damaged(path, number, f"{len(names)} cells", str(len(cells)))
    row = {}
    for name, cell in zip(names, cells, strict=True):
        try:
            row.update({name: _number(cell)} if cell else {})
        except ValueError:
            raise _damaged(path, number, f"a number for {name}", repr(cell)) from None
    if "step" not in row:
        raise _damaged(path, number, "a `step`", "none")
    return row


def _column(name: str) -> str:
    return name if name in PROGRESS or name.startswith((HELD_OUT, TRAIN)) else HELD_OUT + name


def _damaged(path: Path, line: int, expected: str, got: str) -> TrainingError:
    return TrainingError(f"{path}:{line}: these metrics cannot be read: expected {expected}, got {got}")


def _number(cell: str) -> float:
    return int(cell) if cell.isdigit() else float(cell)


def _line(cells: Sequence[str]) -> str:
    return ",".join(cells) + "\n"
