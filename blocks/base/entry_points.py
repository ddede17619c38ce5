"""Entry points by group, including those of a checkout that is not installed."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import sys
from functools import cache, lru_cache
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path

_PROJECT = Path(__file__).parents[2] / "pyproject.toml"
"""The project file of a checkout; an installed wheel has none."""


def entry_points(group: str) -> list[EntryPoint]:
    """Return the entry points of a group, of installed packages and this checkout, sorted by name."""
    installed = _installed(tuple(sys.path)).get(group, ())
    points = {(point.name, point.value): point for point in [*installed, *_of_checkout(group)]}
    return [points[key] for key in sorted(points)]


@lru_cache(maxsize=1)
def _installed(path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    """Map each group that begins with `composer.` to its entry points; cached per `sys.path`."""
    points: dict[str, tuple[EntryPoint, ...]] = {}
    for distribution in importlib.metadata.distributions():
        # entry points of all other packages are read, but not parsed
        if "[composer." in (distribution.read_text("entry_points.txt") or ""):
            for point in distribution.entry_points:
                points[point.group] = (*points.get(point.group, ()), point)
    return points


def _of_checkout(group: str) -> list[EntryPoint]:
    # most commands need no entry point of the checkout, so TOML is parsed only if the group occurs in it
    declared = _declared().get(group, {}) if f'"{group}"' in _project() else {}
    return [EntryPoint(name, value, group) for name, value in declared.items()]


@cache
def _project() -> str:
    return _PROJECT.read_text(encoding="utf-8") if _PROJECT.is_file() else ""


@cache
def _declared() -> dict[str, dict[str, str]]:
    import tomllib

    groups: dict[str, dict[str, str]] = tomllib.loads(_project())["project"].get("entry-points", {})
    return groups


def entry_points_by_name(group: str, attribute: str) -> dict[str, EntryPoint]:
    """Map names to the entry points of a group, without importing them.

    An entry point `name = module:object` stands for that object. One without an object, `name = package`,
    stands for the `attribute` of each module of that package, under the module's name.

    Raises:
        ValueError: two entry points have the same name.
    """
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group):
        for each in [point] if point.attr else _files(point, attribute):
            if each.name in points:
                raise ValueError(
                    f"{each.value} ({group}): {each.name} is already taken by {points[each.name].value}"
                )
            points[each.name] = each
    return points


def _files(point: EntryPoint, attribute: str) -> list[EntryPoint]:
    package = find_spec(point.module)
    folders = package.submodule_search_locations if package else None
    names = sorted(info.name for info in pkgutil.iter_modules(folders)) if folders else []
    return [EntryPoint(name, f"{point.module}.{name}:{attribute}", point.group) for name in names]
