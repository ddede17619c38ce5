"""Input injection by a stable diagonal recurrence. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1, log
from typing import TYPE_CHECKING

from blocks.base.builder import Builder
from blocks.base.wiring import Run, Site
from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import ZEROS, Init, Operation, Value, Weight, expect
from blocks.ir.tensor_type import Shape, TensorType, widest
from blocks.wiring.inject import Inject

if TYPE_CHECKING:
    from torch import Tensor

_DECAY = 0.2**0.5
"""The initial factor of the state, in each channel."""


class DiagonalInput(Inject):
    """The state h becomes exp(-delta exp(a)) h + delta B e, where e is the normed input.

    This is Parcae's injection (arXiv 2604.12946). delta = softplus(d); a and d are learned per channel, and B
    is a learned matrix, initialized to I. The factor of h is always below 1, initially 0.447. B e is computed
    once for all steps.
    """

    name = "diagonal"
    aliases = "lti stable parcae ssm"

    def summary(self, site: Site) -> str:
        """Say what is added to what."""
        return "decayed state + projected norm of the stage's input"

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Decay the state and add the input before the step."""
        delta = Init("constant", log(expm1(-log(_DECAY))))
        weights = [
            Weight("inject_decay", (build.width,), ZEROS, decay=False),
            Weight("inject_delta", (build.width,), delta, decay=False),
        ]
        entry = build.outside(_projected)
        return run(build.op("inject", InjectDiagonal(build.width), x, entry, weights=weights))


def _projected(build: Builder, x: Value) -> Value:
    """Add B e to the graph around the stage, so that it is computed once."""
    e = build.norm(x, "inject_norm", (build.width,))
    return build.project(e, "inject_input", (build.width,), init=Init("eye"), bias=False)


@dataclass(frozen=True)
class InjectDiagonal(Operation):
    """Decay the state per channel and add the projected input: (x, entry) -> x; weights a and d."""

    width: int

    decoding = LOCAL
    kernels = (Kernel("inject_diagonal", f"{__name__}:inject_diagonal", "elementwise"),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), (self.width,))
        return (TensorType((self.width,), widest(*inputs, "stream")),)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [width] for a and [width] for d."""
        return ((self.width,), (self.width,))

    def saved(self, at: CostContext) -> SavedTensors:
        """Save both inputs, exp(a), delta and the decay."""
        return SavedTensors(inputs=(0, 1), once=3 * at.weight_bytes * self.width)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, two products and their sum; backward, one product besides the gradients of inputs."""
        backward = flow.grad_inputs + flow.outputs
        return WorkspaceBytes(3 * flow.outputs, backward, backward)


def inject_diagonal(x: Tensor, entry: Tensor, decay: Tensor, delta: Tensor) -> Tensor:
    """Return exp(-softplus(delta) exp(decay)) x + softplus(delta) entry.

    x, entry: [batch, sequence, width]; decay, delta: [width].
    """
    import torch
    import torch.nn.functional as F

    step = F.softplus(delta)
    return x * torch.exp(-step * torch.exp(decay)) + step * entry
