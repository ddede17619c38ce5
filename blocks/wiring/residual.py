"""The residual connection: how the output of a sublayer joins the stream. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run, WiringConfig
from blocks.ir.operation import Value
from blocks.primitives.operations import Sum


class Residual(WiringConfig):
    """How the output of each sublayer joins the residual stream."""

    key = "residual"
    default = "add"
    key_aliases = "residual_connection skip_connection residual_scale residual_multiplier"


class AddResidual(Residual):
    """x + f(x)."""

    name = "add"
    aliases = "sum plus true standard"

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Add the update to the stream."""
        return build.op("add", Sum((build.width,)), x, run(x))
