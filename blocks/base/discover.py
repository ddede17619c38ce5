"""Finding configs by folder and by entry point: presence is registration."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import TypeVar

from blocks.base.config import Config
from blocks.base.entry_points import entry_points

C = TypeVar("C", bound=Config)


def offered(
    package: ModuleType, base: type[C], group: str, *, nested: bool = False
) -> Iterator[tuple[type[C], str]]:
    """Yield each config that a package or an installed distribution offers, and where it is from.

    A module of `package` offers the subclasses of `base` that it defines or exports, and with `nested` so do
    the modules of a package in it that defines one itself; a distribution offers a class through the entry
    point group `group`.

    Raises:
        ValueError: an entry point is not a subclass of `base`.
    """
    yield from _in_modules(package, base, nested)
    for point in entry_points(group):
        value = point.load()
        if not (isinstance(value, type) and issubclass(value, base)):
            raise ValueError(f"entry point {point.value} ({group}): expected a subclass of {base.__name__}")
        yield value, point.value


def _in_modules(package: ModuleType, base: type[C], nested: bool) -> Iterator[tuple[type[C], str]]:
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, base) and value is not base
        ]
        yield from ((value, module.__name__) for value in found)
        if nested and info.ispkg and any(value.__module__ == module.__name__ for value in found):
            yield from _in_modules(module, base, nested)


def discover(package: ModuleType, base: type[C], tag: str, group: str) -> dict[str, type[C]]:
    """Map each config's tag value to its class, shipped ones first.

    `tag` is the field whose literal default names the config (`type` of a block, `task` of a data source).

    Raises:
        ValueError: two classes claim one name, or an entry point is not a subclass of `base`.
    """
    found: dict[str, type[C]] = {}
    for value, origin in offered(package, base, group):
        claim(found, value, tag, origin)
    return found


def claim(found: dict[str, type[C]], value: type[C], tag: str, origin: str) -> None:
    """Enter a config under its name; ValueError where it has none, or another has it."""
    name = value.model_fields[tag].default
    if not isinstance(name, str):
        raise ValueError(f"{origin}: {value.__name__} needs `{tag}: Literal[...] = ...` with a default")
    if found.setdefault(name, value) is not value:
        raise ValueError(f"{origin}: the {tag} {name!r} is already taken by {found[name].__module__}")
