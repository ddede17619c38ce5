"""Muon: which weights it orthogonalises, and what that takes. Torch-free."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from blocks.base.fields import Untraced
from blocks.ir.numbers import smallest
from blocks.ir.operation import Weight
from blocks.wiring.optimizer import OptimizerChoice, Products

_BF16 = 2
_ITERATIONS = 5
"""Of Newton-Schulz, as torch has by default."""


class Muon(OptimizerChoice):
    """Muon (Jordan et al., 2024) for the matrices of stages: momentum, orthogonalised by Newton-Schulz.

    Updates are scaled to the usual size of AdamW's, so that `lr` and `weight_decay` carry over (arXiv
    2502.16982). Each expert, each step, and gate and up are treated as separate matrices. Embeddings, the
    head, norms, biases and vectors are updated by AdamW.
    """

    name = "muon"

    muon: Annotated[float, Field(ge=0, lt=1), Untraced()] = 0.95
    """The Nesterov momentum."""

    maker = "blocks.wiring.optimizer.muon.optimizer:muon"
    takes_shards = False

    def orthogonalises(self, weight: Weight, in_stage: bool) -> bool:
        """Return whether a weight is a matrix, or several, of a stage."""
        return in_stage and weight.decay and len(weight.shape) > 1 and 1 not in weight.matrix

    def moments(self, weight: Weight, in_stage: bool) -> int:
        """Return one for a matrix, the momentum; else two, as AdamW."""
        return 1 if self.orthogonalises(weight, in_stage) else 2

    def scalars(self, weight: Weight, in_stage: bool) -> int:
        """Return none for a matrix; else one, as AdamW."""
        return 0 if self.orthogonalises(weight, in_stage) else 1

    def products(self, weight: Weight, in_stage: bool) -> Products:
        """Return those of Newton-Schulz, 4 n^2 m + 2 n^3 FLOPs in each iteration on [n, m] with n <= m."""
        if not self.orthogonalises(weight, in_stage):
            return super().products(weight, in_stage)
        rows, columns = weight.matrix
        n = smallest(rows, columns)
        one = 4 * n * rows * columns + 2 * n**3
        matrices = weight.size / (rows * columns)
        return Products(3 * _ITERATIONS * matrices, _ITERATIONS * matrices * one)

    def workspace(self, weight: Weight, in_stage: bool, element: int) -> float:
        """Return the update, the same in bf16 before and after an iteration, and two products with itself.

        One matrix is updated at a time.
        """
        if not self.orthogonalises(weight, in_stage):
            return 0
        rows, columns = weight.matrix
        return (element + 2 * _BF16) * rows * columns + 2 * _BF16 * smallest(rows, columns) ** 2
