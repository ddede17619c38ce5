"""An operation that runs once per step of a loop, on the values the loop collected. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from blocks.ir.costs import CostContext, IOBytes, SavedTensors, WorkspaceBytes
from blocks.ir.decoding import LOCAL
from blocks.ir.kernel import Kernel
from blocks.ir.numbers import largest
from blocks.ir.operation import Operation
from blocks.ir.tensor_type import Shape, TensorType

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EachStep(Operation):
    """Apply an operation with one input to the value of each step, with shared weights: (steps) -> steps."""

    operation: Operation
    steps: int

    kernels = (Kernel("each_step", f"{__name__}:each_step", "the reference, step by step", traceable=False),)

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        if len(inputs) != 1 or inputs[0].kind != "steps":
            raise ValueError(f"{self.describe()}: expected the values of all steps, got {inputs}")
        (made,) = self.operation.types([replace(inputs[0], shape=inputs[0].shape[1:], kind="token")])
        return (replace(made, shape=(self.steps, *made.shape), kind="steps"),)

    @property
    def decoding(self) -> str:  # type: ignore[override]
        """LOCAL if the operation is."""
        return LOCAL if self.operation.decoding == LOCAL else ""

    def weight_shapes(self) -> tuple[Shape, ...]:
        return self.operation.weight_shapes()

    def arguments(self) -> dict[str, Any]:
        return {"function": self.operation.kernels[-1].function, **self.operation.arguments()}

    def flops(self, at: CostContext) -> float:
        """Return the FLOPs of all steps."""
        return self.steps * self.operation.flops(at)

    def backward_flops(self, at: CostContext) -> float:
        """Return the FLOPs of all steps."""
        return self.steps * self.operation.backward_flops(at)

    def saved(self, at: CostContext) -> SavedTensors:
        """Save the operation's tensors for each step."""
        one = self.operation.saved(at) or SavedTensors((0,), (0,))
        return one._replace(extra=self.steps * one.extra, once=self.steps * one.once)

    def works_in(self, at: CostContext) -> Literal["any", "compute", "fp32"]:
        return self.operation.works_in(at)

    def workspace(self, at: CostContext, flow: IOBytes) -> WorkspaceBytes:
        """The peak is at the last step; in the backward pass at the first step that runs, or after all."""
        steps = self.steps
        one = IOBytes(flow.grad_inputs / steps, flow.outputs / steps, flow.casts / steps)
        each = self.operation.workspace(at, one)
        saved = self.operation.saved(at) or SavedTensors((0,), (0,))
        copied = one.casts if saved.inputs else 0
        forward = (steps - 1) * (one.outputs + saved.extra + copied) + each.forward
        # at each step the input's gradient replaces the output's gradient and the saved tensors
        grown = (steps - 1) * (one.grad_inputs - one.outputs - saved.extra - copied)
        return WorkspaceBytes(forward, each.backward + largest(0, grown), each.weights + largest(0, grown))


def each_step(
    values: Sequence[Tensor], *weights: Tensor, function: str, **arguments: Any
) -> tuple[Tensor, ...]:
    """Apply a function to each of the values [batch, sequence, ...]."""
    run = imported(function)
    return tuple(run(value, *weights, **arguments) for value in values)


@cache
def imported(path: str) -> Callable[..., Tensor]:
    """Return the function `package.module:name`."""
    module, name = path.split(":")
    function: Callable[..., Tensor] = getattr(import_module(module), name)
    return function
