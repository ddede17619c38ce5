"""The key `train` of `recur`: how many steps run in training; each value is a file here. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from blocks.base.wiring import WiringConfig

MOST_NUMBERS = 256
"""The maximum number of values of a distribution; costs are computed for each value."""


class Phase(NamedTuple):
    """A phase of training with one distribution of the number of steps.

    Attributes:
        start: the optimizer step at which it begins.
        numbers: the numbers of steps, ascending.
        shares: the probability of each; they add up to 1.
    """

    start: int
    numbers: Sequence[int]
    shares: Sequence[float]


class TrainedSteps(WiringConfig):
    """The number of steps in training. Evaluation and prediction run `steps`."""

    key = "train"
    owner = ("recur",)
    default = "fixed"
    key_aliases = "training sampling sampled distribution schedule train_steps"

    def phases(self, steps: int, optimizer_steps: int) -> Sequence[Phase]:
        """Return the phases of a training run of `optimizer_steps`; the first starts at 0.

        `steps` is the number of steps in evaluation.
        """
        raise NotImplementedError
