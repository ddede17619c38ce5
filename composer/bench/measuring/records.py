"""What a benchmark says: rows, each with the floor or the goal it is held against. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SCHEMA = 1
"""The version of the JSON that `as_json` makes."""


@dataclass(frozen=True)
class Goal:
    """What a figure is meant to reach: `least` of it, or at most.

    Attributes:
        text: what is meant, in words.
        wanted: in the unit of what was found.
        got: what was found.
    """

    text: str
    wanted: float
    got: float
    least: bool = True

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.got >= self.wanted if self.least else self.got <= self.wanted


@dataclass(frozen=True)
class Row:
    """One contestant at one task.

    Attributes:
        case: the sizes, in words.
        task: what is timed, such as `forward`.
        name: of the contestant.
        ours: whether it is what this project would run.
        seconds: the middle of all rounds; None where it failed, and `note` tells why.
        low: a quarter of the rounds took less.
        high: a quarter took more.
        floor: the least seconds it can take here, from rates measured in the same run; None where no floor
            is known.
        moved: the bytes that the floor counts.
        against: how many times as long it took as the contestant that the case compares to, by round: the
            middle and the quartiles.
        tokens: per second.
        flops: model FLOPs per second; nothing that is recomputed counts.
        peak: bytes allocated at most; None where the device does not tell.
        goals: those that are meant for these sizes on this device.
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
        """The share of the floor that is reached: 1 is the floor itself."""
        return self.floor / self.seconds if self.floor and self.seconds else None


@dataclass
class Part:
    """All rows of one part, and how long they took to make.

    Attributes:
        complete: whether nothing more comes.
        failed: why it ended early.
    """

    name: str
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    complete: bool = False
    failed: str = ""


def as_json(about: dict[str, Any], parts: Sequence[Part], finished: bool) -> dict[str, Any]:
    """Return everything as plain data: about the run, then its parts; `finished` if none is missing."""
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
