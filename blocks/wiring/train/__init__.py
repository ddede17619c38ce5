"""The key `train` of `recur`: how many steps run in training; each value is a file here. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from blocks.base.wiring import WiringConfig

MOST_NUMBERS = 256
"""How many different numbers of steps a distribution may have: costs look at each."""


class Phase(NamedTuple):
    """A part of training in which the number of steps has one distribution.

    Attributes:
        start: the optimizer step at which it begins.
        numbers: the numbers of steps, ascending.
        shares: the probability of each; they add up to 1.
    """

    start: int
    numbers: Sequence[int]
    shares: Sequence[float]


class TrainedSteps(WiringConfig):
    """How many steps run in training. Evaluation and prediction run `steps`."""

    key = "train"
    owner = ("recur",)
    default = "fixed"
    key_aliases = "training sampling sampled distribution schedule train_steps"

    def phases(self, steps: int, optimizer_steps: int) -> Sequence[Phase]:
        """Return the phases of a training of so many optimizer steps; the first starts at 0.

        `steps` is what evaluation runs.
        """
        raise NotImplementedError
