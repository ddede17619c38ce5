"""What wiring options ask of the loop of a stage, and what a loop returns. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from blocks.ir.operation import Value

if TYPE_CHECKING:
    from blocks.base.builder import Builder


@dataclass
class NextStage:
    """What is asked of the stages that are added meanwhile.

    Attributes:
        starts_anew: whether the first step reads another state than the stage's input.
        backprop: through how many of the last steps gradients go; None is all.
        carried: what steps hand on besides the state (`Builder.carried`), before the first step.
        keep: what is added behind each step to every state, given the one before the step; None is nothing.
    """

    starts_anew: bool = False
    backprop: int | None = None
    carried: Mapping[str, Value] = field(default_factory=dict)
    keep: Callable[[Builder, Value, Value], Value] | None = None


class LoopResult(NamedTuple):
    """What a loop returns in the graph around it.

    Attributes:
        states: the carried values after the last step.
        collected: for each collected value a sequence of tensors, that of each step in order.
    """

    states: tuple[Value, ...]
    collected: tuple[Value, ...]
