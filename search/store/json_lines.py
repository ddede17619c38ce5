"""Parsing many lines of JSON at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def parsed(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Parse lines of one object each: faster than one by one, and equal keys are one string.

    Raises:
        ValueError: a line is no JSON, or more than one value.
    """
    values: list[dict[str, Any]] = json.loads(f"[{','.join(lines)}]")
    if len(values) != len(lines):
        raise ValueError("expected one JSON object on each line")
    return values
