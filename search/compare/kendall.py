"""Kendall's rank correlation; by numpy, which comes with torch, since scipy is an extra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def kendall(
    one: Sequence[float], other: Sequence[float], weights: NDArray[np.float64] | None = None
) -> float:
    """Return Kendall's tau-b of two rankings of the same things; NaN where one of them ranks nothing.

    `weights` says how often each thing counts, as in a bootstrap sample; once by default.
    """
    a, b = (np.sign(np.subtract.outer(values, values)) for values in map(np.asarray, (one, other)))
    counts = np.ones(len(one)) if weights is None else weights
    agree, ones, others = (float(counts @ (x * y) @ counts) for x, y in ((a, b), (a, a), (b, b)))
    return agree / float(np.sqrt(ones * others)) if ones and others else float("nan")
