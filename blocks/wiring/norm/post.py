"""Sublayers with a norm behind the residual sum. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run
from blocks.ir.operation import Value
from blocks.wiring.norm import Norm


class PostNorm(Norm):
    """norm(x + f(x)), as in the first Transformer (arXiv 1706.03762)."""

    name = "post"
    aliases = "post_norm postnorm after false"
    order = -10

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Norm the sum."""
        return build.norm(run(x), "norm", (build.width,))
