"""Finds commands: every file below `composer.cli.commands`, and entry points of `composer.commands`.

A folder with a `HELP` is a group of commands: `data/build.py` is `composer data build`. An underscore of a
file is a hyphen of its command: `lm_eval.py` is `composer lm-eval`.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import NamedTuple

import composer.cli.commands
from blocks.base.docstrings import docstring
from blocks.base.entry_points import entry_points
from composer.settings.errors import UserError

GROUP = "composer.commands"
PANELS = ("Specs", "Costs", "Models and kernels", "Training", "Search")
"""The panels of `composer --help`, in order; panels that only other packages name follow."""


class Command(NamedTuple):
    """One command, as its module declares it.

    The module may name the panel of `composer --help` that lists the command (`PANEL`) and a command line
    that runs in a checkout (`EXAMPLE`). A group of commands has them as `commands`, and no function.
    """

    name: str
    function: Callable[..., None] | None
    panel: str
    example: str
    help: str
    commands: tuple[Command, ...] = ()


def find_commands(arguments: Sequence[str]) -> list[Command]:
    """Return the command that `arguments` name; all of them, by panel, where they name none.

    Only the modules of the commands that are returned are imported. A command of another package that cannot
    be loaded is reported on stderr and left out of the list.

    Raises:
        UserError: the command that is named cannot be loaded.
    """
    ours = _modules(composer.cli.commands)
    wanted = next((each for each in arguments if not each.startswith("-")), None)
    if wanted in ours:
        return [_ours(wanted, ours[wanted])]
    others = {point.name: point for point in entry_points(GROUP)}
    if wanted in others:
        return [_loaded(others[wanted])]
    commands = [_ours(name, module) for name, module in ours.items()]
    for name, point in others.items():
        try:
            commands.append(_loaded(point, taken=name in ours))
        except UserError as error:
            print(f"composer: {error}", file=sys.stderr)
    panels = [*PANELS, *(each.panel for each in commands)]
    return sorted(commands, key=lambda each: (panels.index(each.panel), each.name))


def _modules(package: ModuleType) -> dict[str, str]:
    """Map the names of the commands and groups of a package to their modules."""
    modules: dict[str, str] = {}
    for info in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        inner = importlib.import_module(info.name) if info.ispkg else None
        if inner is None or hasattr(inner, "HELP"):
            modules[info.name.rpartition(".")[2].replace("_", "-")] = info.name
        else:
            modules |= _modules(inner)
    return modules


def _ours(name: str, path: str) -> Command:
    module = importlib.import_module(path)
    if not hasattr(module, "HELP"):
        return _declared(name, getattr(module, path.rpartition(".")[2]))
    commands = tuple(_ours(each, inner) for each, inner in _modules(module).items())
    return Command(name, None, module.PANEL, "", module.HELP, commands)


def _loaded(point: EntryPoint, taken: bool = False) -> Command:
    reason = "there is a command of that name already"
    if not taken:
        try:
            return _declared(point.name, point.load())
        # whatever another package's import raises
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
    raise UserError(f"cannot load the command {point.name!r} from {point.value}: {reason}")


def _declared(name: str, function: Callable[..., None]) -> Command:
    module = sys.modules[function.__module__]
    panel: str = getattr(module, "PANEL", "Other packages")
    example: str = getattr(module, "EXAMPLE", "")
    # not left to typer: python -OO drops docstrings
    return Command(name, function, panel, example, docstring(function))
