"""What an operation means: its types, weights and arguments. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from blocks.ir.tensor_type import Shape, TensorType


class Meaning:
    """What an operation computes. Only `types` has no default."""

    recomputable: ClassVar[bool] = True
    """Whether it may be run again in the backward pass: a function of its inputs and weights alone."""

    update: ClassVar[str] = ""
    """`package.module:name` of what happens to its states after each optimizer step, or ""."""

    def types(self, inputs: Sequence[TensorType]) -> tuple[TensorType, ...]:
        """Return the types of the outputs; ValueError where the inputs do not fit (see `expect`)."""
        raise NotImplementedError

    def weight_shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of the weights it is called with, in order."""
        return ()

    def arguments(self) -> dict[str, Any]:
        """Return its functions' constant keyword arguments; an `LoopIndex` becomes an index at run time."""
        return {}

    def update_arguments(self) -> dict[str, Any]:
        """Return the constant keyword arguments of `update`, which is called with the untrained weights."""
        return {}

    def passes(self, output: int) -> int | None:
        """Return the position of the input that stands for an output at steps that skip the operation.

        None means that no operation may read this output at such a step.
        """
        return None

    def describe(self) -> str:
        """Return the operation's name for plans and tables."""
        return type(self).__name__
