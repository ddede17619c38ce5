"""A residual connection with scaled branches. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from blocks.base.builder import Builder
from blocks.base.fields import Positive
from blocks.base.wiring import Run, Site
from blocks.ir.costs import SavesNothing
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Init, Operation, Value, Weight, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.operations import Sum
from blocks.wiring.residual import Residual
from blocks.wiring.residual.gain import Gain

if TYPE_CHECKING:
    from torch import Tensor


class ScaledResidual(Residual):
    """x + s f(x), with a constant or learned factor s; SMELT (arXiv 2609.01343) uses 1 / steps."""

    name = "scale"
    aliases = "scaled multiplier alpha"

    scale: Positive | Literal["1/steps", "learned"]
    """The factor s: a number, `1/steps` (the steps of the stage), or `learned`, a scalar initialized to 1."""

    def summary(self, site: Site) -> str:
        """Say by how much."""
        return f"updates times {'a learned scalar' if self.scale == 'learned' else self.scale}"

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Scale the update, then add it to the stream."""
        update = run(x)
        if self.scale == "learned":
            factor = Weight("residual_scale", (1,), Init("constant", 1.0), decay=False)
            update = build.op("scale", Gain(build.width, (1,)), update, weights=[factor])
        else:
            scale = 1 / build.trips() if self.scale == "1/steps" else self.scale
            update = build.op("scale", Scale((build.width,), scale), update)
        return build.op("add", Sum((build.width,)), x, update)


@dataclass(frozen=True)
class Scale(SavesNothing, Operation):
    """Multiply by a constant: (x) -> y."""

    shape: Shape
    scale: float

    decoding = LOCAL
    kernels = (Kernel("scale", f"{__name__}:scale", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, self.shape)
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        return {"scale": self.scale}


def scale(x: Tensor, scale: float) -> Tensor:
    """Return x times a number."""
    return x * scale
