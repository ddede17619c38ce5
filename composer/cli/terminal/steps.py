"""The option `--steps`: numbers of recurrent steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from composer.language.schema.steps import Steps


def read_steps(options: Sequence[str]) -> list[Steps | None]:
    """Return each combination of numbers of steps that the options ask for; None is what the spec says."""
    if not options:
        return [None]
    choices = dict(map(_choices, options))
    if ("" in choices and len(options) > 1) or len(choices) < len(options):
        raise typer.BadParameter(f"expected each stage once, as in stages.0=4, got {' and '.join(options)}")
    if "" in choices:
        return [*choices[""]]
    return [dict(zip(choices, numbers, strict=True)) for numbers in product(*choices.values())]


def one_number(options: Sequence[str]) -> Steps | None:
    """Return the numbers of steps where the options have to ask for one of each stage."""
    numbers = read_steps(options)
    if len(numbers) > 1:
        raise typer.BadParameter("expected one number for each stage", param_hint="--steps")
    return numbers[0]


def _choices(option: str) -> tuple[str, list[int]]:
    """Return the place, or "", and the numbers of one option."""
    place, _, listed = option.rpartition("=")
    words = [word.strip() for word in listed.split(",")]
    if not all(word.isascii() and word.isdigit() and 0 < len(word) < 10 and int(word) > 0 for word in words):
        raise typer.BadParameter(f"expected numbers of steps such as 8, 4,8,16 or stages.0=8, got {option!r}")
    return place.strip(), [int(word) for word in words]
