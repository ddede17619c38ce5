"""The key `at`: at which steps of its stage an entry runs."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from blocks.ir.steps import Steps
from composer.settings.types import Description

_SLICE = re.compile(r"(-?[0-9]{1,7})?:(-?[0-9]{1,7})?(:([1-9][0-9]{0,6})?)?")


def _slice(value: Any) -> Any:
    """Normalize a slice; a slice of all steps becomes None."""
    if not isinstance(value, str) or not _SLICE.fullmatch(value):
        return value
    steps = Steps.parse(value)
    return None if steps == Steps() else str(steps)


def runs_at(at: str | None, trips: int) -> range:
    """Return the steps of a stage at which an entry with `at` runs."""
    return (Steps() if at is None else Steps.parse(at)).among(trips)


Slice: TypeAlias = Annotated[
    str,
    Field(pattern=f"^{_SLICE.pattern}$"),
    Description("a slice of steps, such as '::2', '1::3', '-1:' or ':4'"),
]
"""Some of the steps of a stage, as Python slices a list: `"::2"` is every second one, from the first."""
At: TypeAlias = Annotated[Slice | None, BeforeValidator(_slice)]
"""The steps at which an entry runs, None for all."""
