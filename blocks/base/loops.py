"""What wiring options ask of the loop of a stage, and what a loop returns. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from blocks.ir.operation import Value


@dataclass
class NextStage:
    """What is asked of the stages that are added meanwhile.

    Attributes:
        starts_anew: whether the first step reads another state than the stage's input.
        backprop: through how many of the last steps gradients go; None is all.
        carried: what steps hand on besides the state (`Builder.carried`), before the first step.
    """

    starts_anew: bool = False
    backprop: int | None = None
    carried: Mapping[str, Value] = field(default_factory=dict)


class LoopResult(NamedTuple):
    """What a loop returns in the graph around it.

    Attributes:
        states: the carried values after the last step.
        collected: for each collected value a sequence of tensors, that of each step in order.
    """

    states: tuple[Value, ...]
    collected: tuple[Value, ...]
