"""Validates a resolved tree: returns a config, or every fault with its place and a description."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

from pydantic import ValidationError

from blocks.base.config import Config
from composer.settings.errors import Fault
from composer.settings.tree import Node

C = TypeVar("C", bound=Config)


def build(config: type[C], tree: Node, path: str = "", broken: Collection[str] = ()) -> C | list[Fault]:
    """Validate a tree against a config class; `path` is where the tree stands in its file.

    `broken` are paths that could not be resolved: they hold null, and have faults of their own.
    """
    try:
        return config.model_validate(tree.plain)
    except ValidationError as error:
        from composer.language.validation.faults import faults_of

        return faults_of(error, config, tree, path, broken)
