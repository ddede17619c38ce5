"""Finding configs by folder and by entry point: presence is registration."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

from blocks.base.config import Config
from blocks.base.entry_points import entry_points

C = TypeVar("C", bound=Config)


def discover(package: ModuleType, base: type[C], tag: str, group: str) -> dict[str, type[C]]:
    """Map each config's tag value to its class, shipped ones first.

    A module of `package` offers the subclasses of `base` that it defines or exports; an installed
    distribution offers a class through the entry point group `group`. `tag` is the field whose literal
    default names the config (`type` of a block, `task` of a data source).

    Raises:
        ValueError: two classes claim one name, or an entry point is not a subclass of `base`.
    """
    found: dict[str, type[C]] = {}
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, base) and value is not base:
                claim(found, value, tag, module.__name__)
    for point in entry_points(group):
        value = point.load()
        if not (isinstance(value, type) and issubclass(value, base)):
            raise ValueError(f"entry point {point.value} ({group}): expected a subclass of {base.__name__}")
        claim(found, value, tag, point.value)
    return found


def claim(found: dict[str, type[C]], value: type[C], tag: str, origin: str) -> None:
    """Enter a config under its name; ValueError where it has none, or another has it."""
    name = value.model_fields[tag].default
    if not isinstance(name, str):
        raise ValueError(f"{origin}: {value.__name__} needs `{tag}: Literal[...] = ...` with a default")
    if found.setdefault(name, value) is not value:
        raise ValueError(f"{origin}: the {tag} {name!r} is already taken by {found[name].__module__}")
