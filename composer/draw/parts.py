"""Parts of a picture: operations with their costs, and what options add around a block, a step or a stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from composer.draw.wiring import Addition


@dataclass(frozen=True)
class Row:
    """One operation: its output's shape per token, weights and kernel in words; costs over all executions."""

    name: str
    shape: str
    weights: str
    kernel: str
    params: int
    active: int
    forward: float
    backward: float
    executions: int


@dataclass(frozen=True)
class Part:
    """A part of the model by its operations."""

    rows: tuple[Row, ...]

    @property
    def executions(self) -> int:
        """Executions in one forward pass."""
        return max((row.executions for row in self.rows), default=0)

    @property
    def params(self) -> int:
        """Parameters of all copies; shared ones count at their first use."""
        return sum(row.params for row in self.rows)

    @property
    def active(self) -> int:
        """Parameters that one token uses."""
        return sum(row.active for row in self.rows)

    @property
    def forward(self) -> float:
        """FLOPs per token, all executions."""
        return sum(row.forward for row in self.rows)

    @property
    def backward(self) -> float:
        """The same for the backward pass."""
        return sum(row.backward for row in self.rows)


@dataclass(frozen=True)
class Joint:
    """An operation that an option of a stage adds."""

    added: Addition
    part: Part

    @property
    def label(self) -> str:
        """A short label: the last part of its name."""
        return self.added.name.rpartition("_")[2]

    @property
    def full_label(self) -> str:
        """Its name in words."""
        return self.added.name.replace("_", " ")


@dataclass(frozen=True)
class Joints:
    """The operations that options add before and after what they wrap."""

    before: tuple[Joint, ...] = ()
    after: tuple[Joint, ...] = ()


def grouped(joints: Joints) -> Joints:
    """Return operations with those that follow each other as one, where an option names them alike."""
    return Joints(tuple(_as_groups(joints.before)), tuple(_as_groups(joints.after)))


def _as_groups(joints: Sequence[Joint]) -> Iterator[Joint]:
    def alike(joint: Joint) -> tuple[int, str]:
        return id(joint.added.option), joint.added.name.partition("_")[0]

    for (_, name), group in groupby(joints, alike):
        first, *more = group
        if more:
            added = [first.added, *(joint.added for joint in more)]
            whole = replace(
                first.added,
                name=name,
                reads_input=any(each.reads_input for each in added),
                sums=any(each.sums for each in added),
                outside=tuple(place for each in added for place in each.outside),
            )
            rows = tuple(row for joint in (first, *more) for row in joint.part.rows)
            first = Joint(whole, replace(first.part, rows=rows))
        yield first
