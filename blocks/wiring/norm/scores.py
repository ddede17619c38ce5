"""Sublayers with a norm only on paths into a softmax or sigmoid. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run
from blocks.ir.operation import Value
from blocks.wiring.norm import Norm


class ScoresNorm(Norm):
    """x + f(norm(x) in queries, keys and routers, x elsewhere): peri-layernorm of MoEUT (arXiv 2405.16039).

    Blocks without scores, such as `feed_forward`, have no norm. MoEUT's have ReLU, whose output grows as its
    input does; without a norm that of SwiGLU, GEGLU and ReLU squared grows as the square, so that the state
    of many layers overflows. Peri-LN (arXiv 2502.02732) is `sandwich`.
    """

    name = "scores"
    aliases = "peri peri_layernorm moeut"
    order = 10

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Normalise what queries, keys and routers read."""
        with build.norm_scores():
            return run(x)
