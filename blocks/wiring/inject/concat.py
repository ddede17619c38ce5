"""Input injection by a learned projection of state and input. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from blocks.base.builder import Builder
from blocks.base.wiring import Run, Site
from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Init, Operation, Value, Weight, expect
from blocks.ir.tensor_type import Shape, TensorType
from blocks.primitives.fused_operations import with_onednn
from blocks.wiring.inject import Inject

if TYPE_CHECKING:
    from torch import Tensor


class ConcatInput(Inject):
    """The state is replaced by a learned projection of [state, input], initialized to [I, 0]."""

    name = "concat"
    aliases = "cat concatenate linear"

    def summary(self, site: Site) -> str:
        """Give the widths."""
        return f"[state, stage's input] {2 * site.width} → {site.width}"

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Project state and input before the step."""
        operation = InjectConcat(build.width)
        weight = Weight("inject", operation.weight_shapes()[0], Init("eye"))
        return run(build.op("inject", operation, x, build.stage_input(), weights=[weight]))


@dataclass(frozen=True)
class InjectConcat(Operation):
    """Project the concatenated state and stage input to the width: (x, start) -> x."""

    width: int

    gradients = "joint"
    decoding = LOCAL
    _plain = Kernel("inject_concat", f"{__name__}:inject_concat", "copied side by side for one product")
    kernels = (with_onednn(_plain, f"{__name__}:inject_concat_by_onednn"), _plain)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        expect(self, inputs, (self.width,), (self.width,))
        return (inputs[0],)

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return [width, 2 * width]."""
        return ((self.width, 2 * self.width),)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        """Return the precision of products."""
        return "compute"

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the concatenated inputs."""
        return SavedTensors(extra=at.compute_bytes * 2 * self.width)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """Forward, the output, the joined inputs and their cast under autocast; backward, their gradient."""
        cast = at.stream_bytes if at.compute_bytes < at.stream_bytes else 0
        backward = at.compute_bytes * 2 * self.width
        return WorkspaceBytes((at.compute_bytes + 2 * cast) * self.width + backward, backward, backward)


def inject_concat(x: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """Return [x, start] @ weight.T in the dtype of x.

    x, start: [batch, sequence, width]; weight: [width, 2 * width].
    """
    import torch
    import torch.nn.functional as F

    return F.linear(torch.cat((x, start), -1), weight).to(x.dtype)


def inject_concat_by_onednn(x: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    """Return the same by oneDNN, on processors where that is faster."""
    import torch

    from blocks.kernels.onednn import linear

    return linear(torch.cat((x, start), -1), weight).to(x.dtype)
