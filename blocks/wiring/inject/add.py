"""Input injection by a sum. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blocks.base.builder import Builder
from blocks.base.wiring import Run, Site
from blocks.ir.costs import SavesNothing
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import LoopIndex, Operation, Value, expect
from blocks.ir.tensor_type import TensorType, widest
from blocks.primitives.operations import Sum
from blocks.wiring.inject import Inject

if TYPE_CHECKING:
    from torch import Tensor


class AddInput(Inject):
    """The input is added to the state before each step, except where the state is the input itself."""

    name = "add"
    aliases = "sum true plus residual"

    def summary(self, site: Site) -> str:
        """Say from when on."""
        start = site.wiring.get("start")
        whole = start is not None and start.name != "input"
        return "stage's input added before each step" if whole else "stage's input added from step 2 on"

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Add the stage's input before the step."""
        width = build.width
        operation = Sum((width,)) if build.custom_start else InjectAdd(width, build.trip())
        return run(build.op("inject", operation, x, build.stage_input()))


@dataclass(frozen=True)
class InjectAdd(SavesNothing, Operation):
    """Add the stage's input at all steps but the first: (x, start) -> x."""

    width: int
    index: LoopIndex

    gradients = "passed"
    decoding = LOCAL
    kernels = (Kernel("inject_add", f"{__name__}:inject_add", "elementwise, skipped at the first step"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), (self.width,))
        return (TensorType((self.width,), widest(*inputs)),)

    def arguments(self) -> dict[str, Any]:
        return {"index": self.index}


def inject_add(x: Tensor, start: Tensor, index: int) -> Tensor:
    """Return x at step 0, else x + start; both are [batch, sequence, width]."""
    return x + start if index else x
