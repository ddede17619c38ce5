"""The block, option or task that a user names: by its name, by `package.module:Class`, or by its folder."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from blocks.base.config import BlockConfig, Config
from blocks.base.discover import claim
from blocks.base.wiring import WiringConfig, kind_of
from blocks.find import add_options, block_types, wiring_options
from composer.data.base.config import DataConfig
from composer.data.find import data_tasks

C = TypeVar("C", bound=Config)


class UnknownName(ValueError):
    """No block, option or task goes by a name; says what was expected and what came."""


def find_block(name: str) -> type[BlockConfig]:
    """Return a block's config, known to specs from now on; to be called before a spec is loaded.

    Modules are looked for as Python does, the current folder included.

    Raises:
        UnknownName: there is no such type, module, class or folder, or its type is taken.
    """
    return _find(name, block_types(), BlockConfig, "type")


def find_options(name: str) -> list[type[WiringConfig]]:
    """Return the wiring options of a name: `residual`, `residual.scale` or `my_package.half:HalfResidual`.

    Of a class the other options of its key in its module are known to specs from now on as well. To be called
    before the models of specs are imported.

    Raises:
        UnknownName: there is no such option, module or class, or its name is taken.
    """
    known = wiring_options()
    key, _, value = name.partition(".")
    if key in known and (not value or value in known[key]):
        return [known[key][value]] if value else [*known[key].values()]
    module, colon, attribute = name.partition(":")
    if not colon:
        names = (f"{key}.{value}" for key, options in known.items() for value in options)
        raise UnknownName(f"expected one of {', '.join(names)}, or package.module:Class, got {name!r}")
    held = vars(imported(module, os.getcwd()))
    option: Any = held.get(attribute)
    if not _is(option, WiringConfig) or not option.name:
        raise UnknownName(
            f"{name}: expected a subclass of WiringConfig with a name, got {_type_name(option)}"
        )
    of_key = [each for each in held.values() if _is(each, WiringConfig) and kind_of(each) is kind_of(option)]
    if option not in known.get(kind_of(option).key, {}).values():
        _add(of_key)
    return [option]


def _add(options: Sequence[type[WiringConfig]]) -> None:
    if "composer.language.schema.spec" in sys.modules:
        raise UnknownName(f"{options[0].__name__}: expected to be found before any spec is loaded")
    try:
        add_options(wiring_options(), ((each, f"{each.__module__}:{each.__name__}") for each in options))
    except ValueError as error:
        raise UnknownName(str(error)) from None


def find_task(name: str, settings: Sequence[str] = ()) -> DataConfig:
    """Return a task with some fields, given as `field=value`.

    Raises:
        UnknownName: there is no such task, module, class or folder, or its name is taken.
        SpecError: the fields are not valid.
    """
    from composer.language.parsing.yaml12 import scalar
    from composer.language.validation.validate import build
    from composer.settings.errors import SpecError
    from composer.settings.tree import Place, planted

    config = _find(name, data_tasks(), DataConfig, "task")
    fields = {key: scalar(value) for key, _, value in (each.partition("=") for each in settings)}
    config_or_faults = build(
        config, planted({"task": config.model_fields["task"].default, **fields}, Place("--set"))
    )
    if isinstance(config_or_faults, list):
        raise SpecError(config_or_faults)
    return config_or_faults


def _find(name: str, known: dict[str, type[C]], base: type[C], tag: str) -> type[C]:
    if name in known:
        return known[name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        value: Any = getattr(imported(module, os.getcwd()), attribute, None)
        offered: list[type[C]] = [value] if _is(value, base, tag) else []
        expected, got = f"a subclass of {base.__name__}", _type_name(value)
    elif Path(name).is_dir():
        folder = Path(name).resolve()
        values = vars(imported(folder.name, str(folder.parent))).values()
        offered = [each for each in values if _is(each, base, tag)]
        expected, got = f"one {base.__name__} in its __init__.py", str(len(offered))
    else:
        raise UnknownName(
            f"expected one of {', '.join(known)}, package.module:Class, or a folder, got {name!r}"
        )
    if len(offered) != 1:
        raise UnknownName(f"{name}: expected {expected}, got {got}")
    config = offered[0]
    try:
        claim(known, config, tag, f"{config.__module__}:{config.__name__}")
    except ValueError as error:
        raise UnknownName(str(error)) from None
    return config


def imported(module: str, folder: str) -> ModuleType:
    """Import a module, looked for in a folder, too, behind all else: it stands before no installed package.

    Raises:
        UnknownName: it cannot be imported.
    """
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnknownName(f"{module}: cannot be imported: {error}") from None


def _is(value: object, base: type[Config], tag: str | None = None) -> bool:
    if not isinstance(value, type) or not issubclass(value, base) or value is base:
        return False
    return tag is None or tag in value.model_fields


def _type_name(value: object) -> str:
    return "nothing" if value is None else getattr(value, "__name__", type(value).__name__)
