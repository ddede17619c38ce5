"""Where a sublayer stands in its step, and what its blocks read. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

View: TypeAlias = Literal["input", "q", "k", "v"]
"""What a block reads as its input, or an attention block as that of its queries, keys or values."""

INPUT: frozenset[View] = frozenset({"input"})


@dataclass(frozen=True)
class SublayerPlace:
    """The place of a sublayer in a step, nested stages left out.

    Attributes:
        number: how many sublayers are before it.
        of: how many there are.
        views: what its blocks read.
    """

    number: int = 0
    of: int = 1
    views: frozenset[View] = INPUT
