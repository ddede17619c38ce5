"""The block that a user names: by type, by `package.module:Class`, or by its folder."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from blocks.base.config import BlockConfig
from blocks.find import add_block, block_types


class UnknownBlock(ValueError):
    """No block goes by a name; says what was expected and what came."""


def find_block(name: str) -> type[BlockConfig]:
    """Return a block's config, known to specs from now on; to be called before a spec is loaded.

    Modules are looked for as Python does, the current folder included.

    Raises:
        UnknownBlock: there is no such type, module, class or folder, or its type is taken.
    """
    known = block_types()
    if name in known:
        return known[name]
    found: type[BlockConfig]
    if ":" in name:
        module, _, attribute = name.partition(":")
        value = getattr(_imported(module, os.getcwd()), attribute, None)
        if not _is_block(value):
            raise UnknownBlock(f"{name}: expected a subclass of BlockConfig, got {_told(value)}")
        found = value
    elif Path(name).is_dir():
        folder = Path(name).resolve()
        blocks = [
            each for each in vars(_imported(folder.name, str(folder.parent))).values() if _is_block(each)
        ]
        if len(blocks) != 1:
            raise UnknownBlock(f"{name}: expected one block in its __init__.py, got {len(blocks)}")
        found = blocks[0]
    else:
        expected = f"one of {', '.join(known)}, package.module:Class, or a folder"
        raise UnknownBlock(f"expected {expected}, got {name!r}")
    try:
        return add_block(found)
    except ValueError as error:
        raise UnknownBlock(str(error)) from None


def _imported(module: str, folder: str) -> ModuleType:
    if folder not in sys.path:
        # behind all else: nothing there may stand before an installed package
        sys.path.append(folder)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UnknownBlock(f"{module}: cannot be imported: {error}") from None


def _is_block(value: object) -> TypeGuard[type[BlockConfig]]:
    return isinstance(value, type) and issubclass(value, BlockConfig) and "type" in value.model_fields


def _told(value: object) -> str:
    return "nothing" if value is None else getattr(value, "__name__", type(value).__name__)
