"""A benchmark's rows as text: a table for each case, goals beside it. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from composer.bench.measuring.records import Goal, Part, Row
from composer.costs.base.units import bytes_text, count_text, seconds_text

_HEAD = ("", "time", "quartiles", "floor", "of floor", "tokens/s", "model FLOP/s", "peak", "against", "goal")


def cases(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the text of some cases."""
    for (case, task), each in groupby(rows, lambda row: (row.case, row.task)):
        yield ""
        yield f"  {case}: {task}"
        yield from (f"    {line}" for line in _table([_HEAD, *map(_cells, each)]))


def ending(part: Part) -> Iterator[str]:
    """Yield what is said after the cases of a part."""
    yield ""
    if part.failed:
        yield f"  ended early: {part.failed}"
    yield f"  {part.name} took {part.seconds:.0f} s"
    yield ""


def goals(parts: Sequence[Part]) -> Iterator[str]:
    """Yield what is meant to be reached, and whether it is."""
    for part in parts:
        for row in part.rows:
            for goal in row.goals:
                yield f"  {row.case}, {row.task}, {row.name}: {_goal_text(goal)}"


def _cells(row: Row) -> tuple[str, ...]:
    if row.seconds is None:
        return (row.name, "-", row.note, *[""] * (len(_HEAD) - 3))
    return (
        row.name,
        seconds_text(row.seconds),
        f"{seconds_text(row.low or 0)} to {seconds_text(row.high or 0)}",
        seconds_text(row.floor) if row.floor else "",
        f"{row.share:.0%}" if row.share else "",
        count_text(row.tokens) if row.tokens else "",
        count_text(row.flops) if row.flops else "",
        bytes_text(row.peak) if row.peak else "",
        f"{row.against[0]:.2f}x ({row.against[1]:.2f} to {row.against[2]:.2f})" if row.against else "",
        "; ".join([*map(_goal_text, row.goals), *([row.note] if row.note else [])]),
    )


def _goal_text(goal: Goal) -> str:
    return f"{goal.text}: {'met' if goal.met else 'not met'} ({_number(goal)})"


def _number(goal: Goal) -> str:
    return seconds_text(goal.got) if goal.wanted < 1e-2 else f"{goal.got:.3g}"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns that say something: the first to the left, the others to the right."""
    said = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in said]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in zip(*said, strict=True)
    ]
