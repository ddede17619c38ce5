"""Work whose result is known, for which tiles are tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor


class Work(NamedTuple):
    """Something that starts kernels: returns tensors, and what they should be."""

    name: str
    run: Callable[[], Sequence[Tensor]]
    expected: Sequence[Tensor]
