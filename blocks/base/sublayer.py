"""The place of a sublayer in its step, and the views that its blocks read. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

View: TypeAlias = Literal["input", "q", "k", "v"]
"""`input`: the input of a block; `q`, `k`, `v`: the input of an attention block's projections."""

INPUT: frozenset[View] = frozenset({"input"})


@dataclass(frozen=True)
class SublayerPlace:
    """The place of a sublayer in a step; nested stages are not counted.

    Attributes:
        number: its index.
        of: the number of sublayers.
        views: the views that its blocks read.
    """

    number: int = 0
    of: int = 1
    views: frozenset[View] = INPUT
