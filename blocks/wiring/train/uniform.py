"""Numbers of steps in training that are drawn uniformly. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from blocks.base.fields import Count
from blocks.base.invalid import Unknown
from blocks.wiring.train import MOST_NUMBERS, Phase, TrainedSteps


class UniformSteps(TrainedSteps):
    """Uniform over the integers of a range, both ends included."""

    name = "uniform"
    aliases = "range randint random"

    uniform: Annotated[tuple[Count, Count], Strict(False), Field(examples=[[1, 3], [2, 3]])]
    """The smallest and the largest number of steps."""

    @model_validator(mode="after")
    def _range(self) -> UniformSteps:
        first, last = self.uniform
        if not 0 <= last - first < MOST_NUMBERS:
            expected = f"a first number that is not above the last, and at most {MOST_NUMBERS} numbers"
            context = {"expected": expected, "got": f"{first} to {last}"}
            raise PydanticCustomError("expected", "{expected}", context)
        return self

    def phases(self, steps: int, optimizer_steps: int) -> Sequence[Phase]:
        """Return one phase with every number of the range."""
        first, last = self.uniform
        count = last - first + 1
        if not 0 < count <= MOST_NUMBERS:
            raise Unknown
        return (Phase(0, range(first, last + 1), (1 / count,) * count),)
