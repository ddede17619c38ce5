"""What an operation means: its types, weights and arguments. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from blocks.ir.tensor_type import Shape, TensorType


class Meaning:
    """What an operation computes. Only `types` has no default."""

    recomputable: ClassVar[bool] = True
    """Whether it may run again in the backward pass; True for pure functions of inputs and weights."""

    update: ClassVar[str] = ""
    """`package.module:name` of a function that updates its buffers after each optimizer step, or ""."""

    passes_on: ClassVar[int | None] = None
    """The position of the input that replaces its outputs at steps that skip it, such as the residual stream.
    None: no operation may read them at such a step.
    """

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the types of the outputs.

        Raises:
            ValueError: the inputs have other types than expected (see `expect`).
        """
        raise NotImplementedError

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of the weights it is called with, in order."""
        return ()

    def arguments(self) -> dict[str, Any]:
        """Return the constant keyword arguments of its kernels; a `LoopIndex` becomes an int at run time."""
        return {}

    def update_arguments(self) -> dict[str, Any]:
        """Return the constant keyword arguments of `update`, which is called with the buffers."""
        return {}

    def passthrough(self, output: int) -> int | None:
        """Return `passes_on`; an operation with other outputs overrides it."""
        return self.passes_on

    def describe(self) -> str:
        """Return the operation's name for plans and tables."""
        return type(self).__name__
