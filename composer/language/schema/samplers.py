"""Samplers that a space can name; they are imported only by a search."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint

from blocks.base.entry_points import entry_points_by_name


@cache
def samplers() -> Mapping[str, EntryPoint]:
    """Map the name of each sampler to its entry point, of the group `composer.samplers`."""
    return entry_points_by_name("composer.samplers", "SAMPLER")
