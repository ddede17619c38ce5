"""A fixed code of the step. Torch-free."""

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
from blocks.ir.tensor_type import TensorType
from blocks.wiring.step_code import StepCodeInRecur

if TYPE_CHECKING:
    from torch import Tensor


class SinusoidalStepCode(StepCodeInRecur):
    """Sines and cosines of the step's number, added to the state (Universal Transformer, arXiv
    1807.03819)."""

    name = "sinusoidal"
    aliases = "sine fixed sincos"

    def summary(self, site: Site) -> str:
        """Say what is added."""
        return "sines and cosines of the step's number"

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Add the code before the step."""
        return run(build.op("step_code", AddStepSine(build.width, build.trip() + 1), x))


@dataclass(frozen=True)
class AddStepSine(SavesNothing, Operation):
    """Add sines (even channels) and cosines (odd channels) of the index of the step: (x) -> x."""

    width: int
    index: LoopIndex

    gradients = "passed"
    decoding = LOCAL
    kernels = (Kernel("add_step_sine", f"{__name__}:add_step_sine", "one row added to every token"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,))
        return (inputs[0],)

    def arguments(self) -> dict[str, Any]:
        return {"index": self.index}


def add_step_sine(x: Tensor, index: int) -> Tensor:
    """Return x plus sin and cos of index / 10000^(2j / width) in channels 2j and 2j + 1."""
    import torch

    width = x.shape[-1]
    exact = torch.promote_types(x.dtype, torch.float32)
    pair = torch.arange(0, width, 2, dtype=exact, device=x.device)
    angle = index * 10000.0 ** (-pair / width)
    return x + torch.stack((angle.sin(), angle.cos()), -1).flatten()[:width].to(x.dtype)
