"""The place of a sublayer in its step, the views that its blocks read, the stages around it. Torch-free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from math import prod
from typing import Literal, NamedTuple, TypeAlias

from blocks.ir.numbers import largest

View: TypeAlias = Literal["input", "q", "k", "v"]
"""`input`: the input of a block; `q`, `k`, `v`: the input of an attention block's projections."""

INPUT: frozenset[View] = frozenset({"input"})


class SublayerPlace(NamedTuple):
    """The place of a sublayer in a step; nested stages are not counted.

    Attributes:
        number: its index.
        of: the number of sublayers.
        views: the views that its blocks read.
    """

    number: int = 0
    of: int = 1
    views: frozenset[View] = INPUT


class StageAround(NamedTuple):
    """One stage around a use of a block.

    Attributes:
        number: its place in the stage around it, or among all stages.
        tied: whether its steps share their weights.
        runs: the most steps, in training or evaluation, at which it runs the use.
    """

    number: int
    tied: bool
    runs: int


Use: TypeAlias = tuple[StageAround, ...]
"""One use of a block: the stages around it, outermost first."""


def depth_scope(use: Use) -> Use:
    """Return the stages down to the depth scope of a use: its innermost recurrent stage, else its stage."""
    inner = next((n for n in reversed(range(len(use))) if use[n].tied), len(use) - 1)
    return use[: inner + 1]


def most_runs(uses: Iterable[Use]) -> int:
    """Return how often the uses of a block run together in one depth scope, at most."""
    runs: dict[tuple[int, ...], int] = defaultdict(int)
    for use in uses:
        scope = depth_scope(use)
        place = tuple(stage.number for stage in scope)
        runs[place] += prod(stage.runs for stage in use[len(scope) - 1 :])
    return largest(*runs.values())
