"""The results of a benchmark: rows, each with its floor and goals. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1
"""The version of the JSON that `as_json` makes."""


@dataclass(frozen=True)
class Goal:
    """A goal for a figure: at least (`least`) or at most the wanted value.

    Attributes:
        text: the goal as text.
        wanted: the wanted value, in the unit of `got`.
        got: the measured value.
    """

    text: str
    wanted: float
    got: float
    least: bool = True

    @property
    def met(self) -> bool:
        """Whether the goal is reached."""
        return self.got >= self.wanted if self.least else self.got <= self.wanted


@dataclass(frozen=True)
class Row:
    """One contestant at one task.

    Attributes:
        case: the sizes, as text.
        task: what is timed, such as `forward`.
        name: of the contestant.
        ours: whether this project would run it.
        seconds: the median of all rounds; None if it failed, with the reason in `note`.
        low: the lower quartile.
        high: the upper quartile.
        floor: the minimal time in seconds, from rates measured in the same run; None if no floor
            is known.
        moved: the bytes that the floor counts.
        against: the ratio of its time to that of the case's base contestant, by round:
            median and quartiles.
        tokens: per second.
        flops: model FLOPs per second, without recomputation.
        peak: the peak of allocated bytes; None if the device does not report it.
        goals: the goals for these sizes on this device.
    """

    case: str
    task: str
    name: str
    ours: bool = False
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    moved: float | None = None
    against: tuple[float, float, float] | None = None
    tokens: float | None = None
    flops: float | None = None
    peak: int | None = None
    goals: tuple[Goal, ...] = ()
    note: str = ""

    @property
    def share(self) -> float | None:
        """The floor divided by the measured time; 1 is optimal."""
        return self.floor / self.seconds if self.floor and self.seconds else None


@dataclass
class Part:
    """All rows of one part, and the time it took.

    Attributes:
        complete: whether the part has ended.
        failed: why it ended early, or "".
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = False
    failed: str = ""


def as_json(about: dict[str, Any], parts: Sequence[Part], finished: bool) -> dict[str, Any]:
    """Return all results as plain data: the run, then its parts; `finished` if none is missing."""
    return {
        "schema": SCHEMA,
        **about,
        "finished": finished,
        "parts": [
            {
                "name": part.name,
                "seconds": part.seconds,
                "complete": part.complete,
                "failed": part.failed,
                "rows": [_plain(row) for row in part.rows],
            }
            for part in parts
        ],
    }


def _plain(row: Row) -> dict[str, Any]:
    goals = [{**asdict(goal), "met": goal.met} for goal in row.goals]
    return {**asdict(row), "share": row.share, "goals": goals}
