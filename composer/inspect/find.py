"""Finds measures: every file in `composer.inspect.measures`."""

from __future__ import annotations

import importlib
import pkgutil

from composer.inspect import measures
from composer.inspect.base.measure import Measure


def find_measures() -> list[Measure]:
    """Return all measures in the order of the page."""
    names = [info.name for info in pkgutil.iter_modules(measures.__path__, f"{measures.__name__}.")]
    registered: list[Measure] = [importlib.import_module(name).MEASURE for name in names]
    return sorted(registered, key=lambda each: (each.order, each.name))
