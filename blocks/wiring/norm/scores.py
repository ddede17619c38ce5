"""Sublayers with a norm only on paths into a softmax or sigmoid. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run
from blocks.ir.operation import Value
from blocks.wiring.norm import Norm


class ScoresNorm(Norm):
    """x + f(x) with norms only in front of queries, keys and routers.

    This is the peri-layernorm of MoEUT (arXiv 2405.16039). Blocks without these, such as `feed_forward`, have
    no norm. MoEUT uses ReLU, whose output grows linearly with its input. SwiGLU, GeGLU and squared ReLU grow
    quadratically without a norm, so that the state of deep models overflows. Peri-LN (arXiv 2502.02732) is
    `sandwich`.
    """

    name = "scores"
    aliases = "peri peri_layernorm moeut"
    order = 10

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Norm the inputs of queries, keys and routers."""
        with build.norm_scores():
            return run(x)
