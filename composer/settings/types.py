"""Field types of the spec language that are not block matters: lists, durations, words for errors."""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BeforeValidator, Field, Strict, WithJsonSchema

T = TypeVar("T")
Many: TypeAlias = Annotated[tuple[T, ...], Strict(False)]
"""A list of any length."""


class Description(str):
    """What a type is in words, for errors; stands in its metadata."""

    __slots__ = ()


class DefaultsTo(str):
    """The path of the value that a spec takes where it leaves a field out; stands in the field's metadata."""

    __slots__ = ()


_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(us|ms|s|min|h|d)\s*")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400}


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError("a duration such as 80ms, 90s, 15min or 2h")
        return float(match[1]) * _SECONDS[match[2]]
    return value


Duration: TypeAlias = Annotated[
    float,
    Field(gt=0, allow_inf_nan=False),
    BeforeValidator(_seconds),
    Description("a duration such as 80ms, 90s, 15min or 2h"),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": _DURATION.pattern.join("^$")},
            ]
        }
    ),
]
"""A time above 0; a bare number is seconds."""
