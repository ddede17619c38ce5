"""The bounds of shape that a matched spec has to keep, with their defaults."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from blocks.base.config import Config
from blocks.base.fields import Count, Positive
from composer.settings.types import Description, Many

Range: TypeAlias = Annotated[
    Many[Positive],
    Field(min_length=2, max_length=2),
    Description("two numbers above 0, the least and the most"),
]
"""The least and the most."""
Factor: TypeAlias = Annotated[float, Field(ge=1, allow_inf_nan=False)]
"""A number of at least 1."""


class ShapeBounds(Config):
    """Which shapes a matched spec may have. A base outside a bound may keep its own value, and no worse."""

    width_factor: Factor = 1.5
    """How many times wider or narrower than its base the matched spec may be."""
    attention_ratio: Range = (0.5, 2)
    """heads * head_dim divided by the width: least and most."""
    head_dims: Annotated[Many[Count], Field(min_length=1)] = (16, 32, 64, 80, 96, 128, 256)
    """Head sizes that may be chosen, besides those of the base."""
    groups: Many[Count] = ()
    """Query heads per key and value head that may be chosen, besides those of the base."""
    hidden_ratio: Range = (1, 8)
    """Hidden size used by a token (for experts active * hidden) divided by the width: least and most."""
    experts_per_active: Factor = 4
    """Least number of experts for each active one, in every layer that has experts."""

    @model_validator(mode="after")
    def _sound(self) -> ShapeBounds:
        for name in ("attention_ratio", "hidden_ratio"):
            low, high = getattr(self, name)
            if low > high:
                expected, got = f"{name} with the least first", f"[{low:g}, {high:g}]"
                raise PydanticCustomError("expected", "{expected}", {"expected": expected, "got": got})
        return self
