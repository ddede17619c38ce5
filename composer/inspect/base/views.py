"""What a page shows of a measure, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Lines:
    """Curves over a common axis.

    Attributes:
        series: points (x, y) by name.
        marked: an x with a line of its own, and what is said there.
        share: whether y is a share, shown in percent.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, Points]
    marked: tuple[float, str] | None = None
    share: bool = False


@dataclass(frozen=True)
class Heat:
    """A table of numbers as colours.

    Attributes:
        values: row by row; None is an empty cell.
        rows, columns: what they are called; one label for each in `row_names` and `column_names`.
        share: whether values are shares, shown in percent.
        top: the value of the full colour; by default the largest there is.
    """

    title: str
    rows: str
    columns: str
    row_names: Sequence[str]
    column_names: Sequence[str]
    values: Sequence[Sequence[float | None]]
    share: bool = False
    top: float | None = None


@dataclass(frozen=True)
class Choice:
    """One of several views, chosen by name."""

    name: str
    views: Mapping[str, View]


@dataclass(frozen=True)
class Rows:
    """A table; columns are numbers except those in `words`."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Note:
    """A sentence."""

    text: str


View = Lines | Heat | Choice | Rows | Note
