"""Discovery of config classes in packages and through entry points, without a registry."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import TypeVar

from blocks.base.config import Config
from blocks.base.entry_points import entry_points

C = TypeVar("C", bound=Config)


def offered(package: ModuleType, base: type[C], group: str) -> Iterator[tuple[type[C], str]]:
    """Yield each config class of a package and of installed distributions, with its origin.

    Args:
        package: its modules define or export subclasses of `base`.
        base: the base class.
        group: the entry point group for other distributions.

    Raises:
        ValueError: an entry point is not a subclass of `base`.
    """
    for name in sorted(module_names(package)):
        module = importlib.import_module(f"{package.__name__}.{name}")
        yield from ((value, module.__name__) for value in configs_of(module, base))
    for point in entry_points(group):
        value = point.load()
        if not (isinstance(value, type) and issubclass(value, base)):
            raise ValueError(f"entry point {point.value} ({group}): expected a subclass of {base.__name__}")
        yield value, point.value


def module_names(package: ModuleType) -> set[str]:
    """Return the names of the modules in a package; a module that is no package has none."""
    return {info.name for info in pkgutil.iter_modules(getattr(package, "__path__", ()))}


def configs_of(module: ModuleType, base: type[C]) -> list[type[C]]:
    """Return the subclasses of `base` that a module defines or imports."""
    values = vars(module).values()
    return [v for v in values if isinstance(v, type) and issubclass(v, base) and v is not base]


def find_named(package: ModuleType, base: type[C], tag: str, name: str) -> type[C] | None:
    """Return the config called `name` if it is in the module of `package` of the same name, else None.

    No other module is imported. `tag` is the field that holds the name.
    """
    if name not in module_names(package):
        return None
    module = importlib.import_module(f"{package.__name__}.{name}")
    return next((each for each in configs_of(module, base) if each.model_fields[tag].default == name), None)


def discover(package: ModuleType, base: type[C], tag: str, group: str) -> dict[str, type[C]]:
    """Map the name of each config to its class, those of `package` first.

    `tag` is the field whose literal default names the config (`type` of a block, `task` of a data source).

    Raises:
        ValueError: two classes claim one name, or an entry point is not a subclass of `base`.
    """
    configs: dict[str, type[C]] = {}
    for value, origin in offered(package, base, group):
        claim(configs, value, tag, origin)
    return configs


def claim(configs: dict[str, type[C]], value: type[C], tag: str, origin: str) -> None:
    """Add a config class under its name.

    Raises:
        ValueError: it has no name, or another class has the same.
    """
    name = value.model_fields[tag].default
    if not isinstance(name, str):
        raise ValueError(f"{origin}: {value.__name__} needs `{tag}: Literal[...] = ...` with a default")
    if configs.setdefault(name, value) is not value:
        raise ValueError(f"{origin}: the {tag} {name!r} is already taken by {configs[name].__module__}")
