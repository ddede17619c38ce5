"""Accumulates rows of several steps to compute gradients of experts' weights at once."""

from __future__ import annotations

from torch import Tensor

from blocks.expert_attention import library
from blocks.expert_attention.tiles import PRODUCT_STEPS
from blocks.expert_attention.weights_kernel import Rows
from blocks.kernels.weight_sums import WeightSum


class PendingRows:
    """An fp32 sum of products, and the rows of steps that are not yet added.

    Attributes:
        total: [experts, n, m], None before the first product.
    """

    def __init__(self, active: int, left: bool) -> None:
        """`left`: the left factor is gathered, as in `add_products`."""
        self.active, self.left = active, left
        self._steps: list[Rows] = []
        self.total: Tensor | None = None

    def add(self, rows: Rows) -> None:
        """Add the rows of one step; multiply when there are `PRODUCT_STEPS` steps."""
        if self._steps and not _alike(rows, self._steps[0]):
            self.multiply()
        self._steps.append(rows)
        if len(self._steps) == PRODUCT_STEPS:
            self.multiply()

    def multiply(self) -> Tensor:
        """Multiply all pending rows and return the sum."""
        if self._steps:
            self.total = library.expert_weights(self.total, self._steps, self.active, self.left)
            self._steps = []
        assert self.total is not None
        return self.total


def add_rows(total: WeightSum, rows: Rows, active: int, left: bool) -> None:
    """Add the products of a step's rows to the gradient of a weight [experts, n, m]."""
    waiting = total.so_far() or PendingRows(active, left)
    waiting.add(rows)
    total.put(waiting, PendingRows.multiply)


def _alike(rows: Rows, other: Rows) -> bool:
    """Return whether two steps have factors of equal layout, so that one launch can process both."""
    return all(a.stride() == b.stride() and a.dtype == b.dtype for a, b in zip(rows, other, strict=True))
