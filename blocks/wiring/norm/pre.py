"""Where a sublayer is normalised: in front of its block. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run
from blocks.ir.operation import Value
from blocks.wiring.norm import Norm


class PreNorm(Norm):
    """x + f(norm(x)) (arXiv 2002.04745)."""

    name = "pre"
    aliases = "pre_norm prenorm before true"
    order = 10

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Norm the input of the block."""
        return run(build.norm_input(x))
