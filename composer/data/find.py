"""Which tasks there are: every file of `composer.data.tasks`, and every entry point of `composer.data`."""

from __future__ import annotations

from functools import cache

import composer.data.tasks
from blocks.base.discover import discover
from composer.data.base.config import DataConfig


@cache
def data_tasks() -> dict[str, type[DataConfig]]:
    """Map each task's name to its config class."""
    return discover(composer.data.tasks, DataConfig, "task", "composer.data")
