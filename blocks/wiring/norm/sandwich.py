"""Sublayers with a norm on both sides of the block. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run
from blocks.ir.operation import Value
from blocks.wiring.norm import Norm


class SandwichNorm(Norm):
    """x + norm(f(norm(x))) (arXiv 2105.13290), which is Peri-LN (arXiv 2502.02732).

    The initial gain of the outer norm is scaled down by the depth of the model, instead of the block's
    projections into the residual stream.
    """

    name = "sandwich"
    aliases = "sandwich_norm peri peri_ln double both"
    order = 10

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Norm the input and the output of the block."""
        with build.at(build.prefix, writes_residual=False):
            update = run(build.norm_input(x))
        return build.norm(update, "out_norm", (build.width,), writes_residual=True)
