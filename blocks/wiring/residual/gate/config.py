"""Residual connections that start closed: each update has a learned gate that begins at 0. Torch-free."""

from __future__ import annotations

from typing import Literal

from blocks.base.builder import Builder
from blocks.base.wiring import Run, Site
from blocks.ir.operation import ZEROS, Value, Weight
from blocks.primitives.operations import Sum
from blocks.wiring.residual import Residual
from blocks.wiring.residual.gain import Gain, TokenGain


class GatedResidual(Residual):
    """x + g f(x), with a learned gate g, initialized to 0, so that each sublayer starts as the identity.

    Projections into the residual stream are therefore not scaled down at initialization.
    """

    name = "gate"
    aliases = "gated rezero re_zero layer_scale layerscale skip_init"

    gate: Literal["scalar", "channel", "token"]
    """`scalar`: one gate per sublayer (ReZero, arXiv 2003.04887); `channel`: one per channel (as LayerScale,
    arXiv 2103.17239, which starts at a small number instead of 0); `token`: a scalar, initialized to 0, times
    the sigmoid of a projection of the stream (arXiv 2609.03379).
    """

    def summary(self, site: Site) -> str:
        """Say what has a gate."""
        each = {"scalar": "sublayer", "channel": "channel", "token": "token"}[self.gate]
        return f"a gate for each {each}, from 0"

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Gate the update, then add it to the stream."""
        with build.at(build.prefix, build.block, writes_residual=False):
            update = run(x)
        size = build.width if self.gate == "channel" else 1
        factor = Weight("residual_gate", (size,), ZEROS, decay=False)
        if self.gate == "token":
            logit = build.project(x, "residual_token_gate", (1,), init=ZEROS)
            update = build.op("gate", TokenGain(build.width), logit, update, weights=[factor])
        else:
            update = build.op("gate", Gain(build.width, (size,)), update, weights=[factor])
        return build.op("add", Sum((build.width,)), x, update)
