"""AdamW. Torch-free."""

from __future__ import annotations

from blocks.ir.operation import Weight
from blocks.wiring.optimizer import OptimizerChoice


class AdamW(OptimizerChoice):
    """AdamW (arXiv 1711.05101)."""

    name = "adamw"
    aliases = "adam adam_w adamw_torch"

    maker = "blocks.wiring.optimizer.adamw.optimizer:adamw"

    def moments(self, weight: Weight, in_stage: bool) -> int:
        """Return two: means of gradients and of their squares."""
        return 2

    def scalars(self, weight: Weight, in_stage: bool) -> int:
        """Return one, the number of updates."""
        return 1

    def workspace(self, weight: Weight, in_stage: bool, element: int) -> float:
        """Return none: it is one fused operation in place."""
        return 0
