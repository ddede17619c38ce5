"""Settings of the loop of a stage, and its result. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from blocks.ir.operation import Value


@dataclass
class NextStage:
    """Settings of the stages that are added in a context.

    Attributes:
        custom_start: whether the first step reads another state than the stage's input.
        backprop: the number of last steps that gradients go through; None for all.
        carried: the initial values of `Builder.carried`.
    """

    custom_start: bool = False
    backprop: int | None = None
    carried: Mapping[str, Value] = field(default_factory=dict)


class LoopResult(NamedTuple):
    """The outputs of a loop in the graph around it.

    Attributes:
        states: the carried values after the last step.
        collected: each collected value, as a tuple with one tensor per step.
    """

    states: tuple[Value, ...]
    collected: tuple[Value, ...]
