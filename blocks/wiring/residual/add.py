"""The residual connection: how the output of a sublayer joins the stream. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run
from blocks.ir.operation import Value
from blocks.primitives.operations import Sum
from blocks.wiring.residual import Residual


class AddResidual(Residual):
    """x + f(x)."""

    name = "add"
    aliases = "sum plus true standard"

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Add the update to the stream."""
        return build.op("add", Sum((build.width,)), x, run(x))
