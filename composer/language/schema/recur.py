"""The number of steps of a stage: a number, or a mapping if training runs other numbers than evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Tag

from blocks.base.fields import Count
from blocks.wiring.train import TrainedSteps
from blocks.wiring.train.fixed import FixedSteps
from composer.language.schema.wired import Wired


class Recur(Wired, owner="recur"):
    """The number of steps of a stage whose training runs other numbers than evaluation."""

    steps: Count
    """The number of steps in evaluation and prediction."""
    per: Literal["batch", "sequence"] = "batch"
    """What draws its own number of steps in training: each micro-batch, the same on all devices, or each
    sequence (Parcae, arXiv 2604.12946). Then the largest number of a micro-batch runs, which is what costs
    count; a sequence that has run its own keeps its state, and comes out as in a model of so many steps.
    """

    @property
    def runs_rows_apart(self) -> bool:
        """Whether this is what training runs with a number for each sequence, `steps` of them at most."""
        return self.per == "sequence" and self.option(TrainedSteps) == FixedSteps()


def _steps_kind(value: Any) -> str:
    return "mapping" if isinstance(value, Mapping | Recur) else "number"


def _number_if_fixed(value: Recur) -> int | Recur:
    return value if value.changed_options() else value.steps


Steps: TypeAlias = Annotated[
    Annotated[Count, Tag("number")] | Annotated[Recur, AfterValidator(_number_if_fixed), Tag("mapping")],
    Discriminator(_steps_kind),
]
"""A number of steps, or {steps: .., train: ..}; a mapping that says no more than its number is the number."""
