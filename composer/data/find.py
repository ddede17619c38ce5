"""Which tasks there are: every file of `composer.data.tasks`, and every entry point of `composer.data`."""

from __future__ import annotations

from functools import cache

import composer.data.tasks
from blocks.base.discover import discover, find_named
from composer.data.base.config import DataConfig


@cache
def data_tasks() -> dict[str, type[DataConfig]]:
    """Map each task's name to its config class."""
    return discover(composer.data.tasks, DataConfig, "task", "composer.data")


@cache
def data_task(name: str) -> type[DataConfig] | None:
    """Return the config class of a task or None, importing no other if its file has its name."""
    return find_named(composer.data.tasks, DataConfig, "task", name) or data_tasks().get(name)
