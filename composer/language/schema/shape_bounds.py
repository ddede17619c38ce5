"""Bounds on the shape of a matched spec, with their defaults."""

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
    Description("two numbers above 0, the smallest first"),
]
"""The least and the most."""
Factor: TypeAlias = Annotated[float, Field(ge=1, allow_inf_nan=False)]
"""A number of at least 1."""


class ShapeBounds(Config):
    """Which shapes a matched spec may have. A base outside a bound may keep its own value, and no worse."""

    width_factor: Factor = 1.5
    """Largest factor between the widths of the matched spec and its base."""
    attention_ratio: Range = (0.5, 2)
    """Range of heads * head_dim / width."""
    head_dims: Annotated[Many[Count], Field(min_length=1)] = (16, 32, 64, 80, 96, 128, 256)
    """Allowed head sizes, in addition to the base's."""
    groups: Many[Count] = ()
    """Allowed numbers of query heads per key and value head, in addition to the base's."""
    hidden_ratio: Range = (1, 8)
    """Range of the hidden size used by a token (for experts active * hidden, for those of one neuron
    heads * active) / width."""
    experts_per_active: Factor = 4
    """Smallest ratio of experts to active experts, in all heads, in every layer with experts."""

    @model_validator(mode="after")
    def _sound(self) -> ShapeBounds:
        for name in ("attention_ratio", "hidden_ratio"):
            low, high = getattr(self, name)
            if low > high:
                expected, got = f"{name} with the least first", f"[{low:g}, {high:g}]"
                raise PydanticCustomError("expected", "{expected}", {"expected": expected, "got": got})
        return self
