"""A package of somebody else's: token shift, right and with each declaration wrong; no tests in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F

from blocks.base.config import BlockConfig
from blocks.ir.costs import SavedTensors, WorkspaceBytes
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Init, Operation, Weight, expect
from blocks.ir.tensor_type import TensorType, widest


def shift(x, share):
    before = F.pad(x, (0, 0, 1, -1))
    return share * x + (1 - share) * before


def later(x, share):
    return share * x + (1 - share) * F.pad(x, (0, 0, 0, 1))[:, 1:]


def detached(x, share):
    return shift(x, share.detach())


def squeezed(x, share):
    before = F.pad(x, (0, 0, 1, -1)).squeeze(1)
    made = share * x + (1 - share) * before
    return made if made.shape == x.shape else made.sum(0, keepdim=True).expand_as(x)


_calls: list[int] = []


def remembering(x, share):
    _calls.append(1)
    return shift(x, share) + 1e-2 * len(_calls)


def off(x, share):
    return shift(x, share) * 1.01


@dataclass(frozen=True)
class Shift(Operation):
    width: int

    kernels = (Kernel("shift", "mixers:shift", "elementwise"),)

    def types(self, inputs):
        expect(self, inputs, (self.width,))
        return (TensorType((self.width,), widest(*inputs, "stream")),)

    def weight_shapes(self):
        return ((self.width,),)

    def saved(self, at):
        return SavedTensors(inputs=(0,), extra=at.stream_bytes * self.width)


class Mixing(BlockConfig):
    """Token shift."""

    type: Literal["mixing"] = "mixing"
    operation: ClassVar[Any] = Shift

    def lower(self, build: Any, x: Any) -> Any:
        share = Weight("share", (build.width,), Init("constant", 0.5), decay=False)
        mixed = build.op("shift", self.operation(build.width), x, weights=[share])
        return build.project(mixed, "out", (build.width,), writes_residual=True)


def wrong(name, **members):
    """A block like `Mixing` whose operation has other members."""
    operation = type(name, (Shift,), members)
    made = {"type": name, "operation": operation, "__annotations__": {"type": Literal[name]}}
    return type(name, (Mixing,), {**made, "__module__": __name__, "__doc__": name})


def running(*functions):
    return tuple(Kernel(each.__name__, f"mixers:{each.__name__}", "elementwise") for each in functions)


wrong_flops = wrong("wrong_flops", flops=lambda self, at: 2.0 * self.width)
wrong_saved = wrong("wrong_saved", saved=lambda self, at: SavedTensors(inputs=(0,)))
wrong_workspace = wrong("wrong_workspace", workspace=lambda self, at, flow: WorkspaceBytes(1e5, 1e5, 1e5))
wrong_precision = wrong("wrong_precision", types=lambda self, inputs: (TensorType((self.width,)),))
wrong_shape = wrong("wrong_shape", weight_shapes=lambda self: ((self.width + 1,),))
looks_ahead = wrong("looks_ahead", kernels=running(later))
loses_gradient = wrong("loses_gradient", kernels=running(detached))
fails_at_one = wrong("fails_at_one", kernels=running(squeezed))
remembers = wrong("remembers", kernels=running(remembering))
unlike_reference = wrong("unlike_reference", kernels=running(off, shift))


def doubled_in_place(x, share):
    x.mul_(2)
    return shift(x, share)


writes_input = wrong("writes_input", kernels=running(doubled_in_place))


def spread(x):
    return x.unflatten(-1, (2, 2, 2, 2)).repeat(1, 1, 1, 1, 1, 4).tanh()


@dataclass(frozen=True)
class Spread(Operation):
    """[16] to [2, 2, 2, 8]: as many axes as depth slots have."""

    kernels = (Kernel("spread", "mixers:spread", "elementwise"),)

    def types(self, inputs):
        expect(self, inputs, (16,))
        return (TensorType((2, 2, 2, 8), inputs[0].element),)

    def saved(self, at):
        return SavedTensors(outputs=(0,))

    def workspace(self, at, flow):
        return WorkspaceBytes(
            2 * flow.outputs, flow.outputs + flow.grad_inputs, flow.outputs + flow.grad_inputs
        )


class Ranked(BlockConfig):
    """A value of four axes."""

    type: Literal["ranked"] = "ranked"

    def lower(self, build: Any, x: Any) -> Any:
        made = build.op("spread", Spread(), x)
        return build.project(made, "out", (build.width,), 64, writes_residual=True)
