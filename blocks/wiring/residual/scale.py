"""A residual connection with scaled branches. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blocks.base.builder import Builder
from blocks.base.fields import Positive
from blocks.base.wiring import Run, Site
from blocks.ir.costs import SavesNothing
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Operation, Value, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.operations import Sum
from blocks.wiring.residual import Residual

if TYPE_CHECKING:
    from torch import Tensor


class ScaledResidual(Residual):
    """x + s f(x), with a constant s, as in SMELT (arXiv 2609.01343), where it is 1 / steps."""

    name = "scale"
    aliases = "scaled multiplier alpha layer_scale"

    scale: Positive | Literal["1/steps"]
    """The factor s; `1/steps` is one over the steps of the stage."""

    def words(self, site: Site) -> str:
        """Say by how much."""
        return f"updates times {self.scale}"

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Scale the update, then add it to the stream."""
        scale = 1 / build.trips() if self.scale == "1/steps" else self.scale
        update = build.op("scale", Scale((build.width,), scale), run(x))
        return build.op("add", Sum((build.width,)), x, update)


@dataclass(frozen=True)
class Scale(SavesNothing, Operation):
    """Multiply by a constant: (x) -> y."""

    shape: Shape
    scale: float

    kernels = (Kernel("scale", f"{__name__}:scale", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the input's type."""
        expect(self, inputs, self.shape)
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        """Return the factor."""
        return {"scale": self.scale}


def scale(x: Tensor, scale: float) -> Tensor:
    """Return x times a number."""
    return x * scale
