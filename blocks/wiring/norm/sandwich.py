"""Sublayers with a norm on both sides of the block. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run
from blocks.ir.operation import Value
from blocks.wiring.norm import Norm


class SandwichNorm(Norm):
    """x + norm(f(norm(x))) (arXiv 2105.13290), which is Peri-LN (arXiv 2502.02732).

    The gain of the outer norm starts as small as a projection into the stream otherwise does, and the block's
    own projections start at full size.
    """

    name = "sandwich"
    aliases = "sandwich_norm peri peri_ln double both"
    order = 10

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Normalise what the block reads, and what it returns."""
        with build.at(build.prefix, writes_residual=False):
            update = run(build.norm_input(x))
        return build.norm(update, "out_norm", (build.width,), writes_residual=True)
