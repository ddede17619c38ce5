"""The number of steps of a stage: a number, or a mapping if training runs other numbers than evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Tag

from blocks.base.fields import Count
from composer.language.schema.wired import Wired, wired


@wired("recur")
class Recur(Wired):
    """The number of steps of a stage whose training runs other numbers than evaluation."""

    steps: Count
    """The number of steps in evaluation and prediction."""
    per: Literal["batch"] = "batch"
    """What has a number of its own in training: each micro-batch, the same on all devices."""


def _steps_kind(value: Any) -> str:
    return "mapping" if isinstance(value, Mapping | Recur) else "number"


def _number_if_fixed(value: Recur) -> int | Recur:
    return value if value.changed_options() else value.steps


Steps: TypeAlias = Annotated[
    Annotated[Count, Tag("number")] | Annotated[Recur, AfterValidator(_number_if_fixed), Tag("mapping")],
    Discriminator(_steps_kind),
]
"""A number of steps, or {steps: .., train: ..}; a mapping that says no more than its number is the number."""
