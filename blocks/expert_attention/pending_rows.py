"""The rows that gradients of experts' weights are made of, kept until several steps' are multiplied."""

from __future__ import annotations

from torch import Tensor

from blocks.expert_attention import library
from blocks.expert_attention.tiles import PRODUCT_STEPS
from blocks.expert_attention.weights_kernel import Rows
from blocks.kernels.weight_sums import WeightSum


class PendingRows:
    """A sum of products in fp32, and the rows of steps that are not yet in it.

    Attributes:
        total: [experts, n, m], None before the first product.
    """

    def __init__(self, active: int, left: bool) -> None:
        """`left` says which factor is gathered, as in `add_products`."""
        self.active, self.left = active, left
        self._steps: list[Rows] = []
        self.total: Tensor | None = None

    def add(self, rows: Rows) -> None:
        """Add the rows of one step; those of `PRODUCT_STEPS` are multiplied at once."""
        if self._steps and not _alike(rows, self._steps[0]):
            self.multiply()
        self._steps.append(rows)
        if len(self._steps) == PRODUCT_STEPS:
            self.multiply()

    def multiply(self) -> Tensor:
        """Multiply all rows that wait; return the sum."""
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
    """Return whether two steps' factors lie alike, so that one launch takes both."""
    return all(a.stride() == b.stride() and a.dtype == b.dtype for a, b in zip(rows, other, strict=True))
