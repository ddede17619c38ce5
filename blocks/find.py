"""Which blocks and wiring options there are: what the folders hold, and entry points of packages."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import blocks
import blocks.wiring
from blocks.base.config import BlockConfig
from blocks.base.discover import discover, offered
from blocks.base.wiring import WiringConfig, kind_of

Wiring = Mapping[str, Mapping[str, type[WiringConfig]]]


@cache
def block_types() -> dict[str, type[BlockConfig]]:
    """Map each block's `type` to its config class."""
    return discover(blocks, BlockConfig, "type", "composer.blocks")


@cache
def wiring_options() -> Wiring:
    """Map each key of wiring to the classes of its values by name, the default first.

    Raises:
        ValueError: an option lacks something, or its name or key is taken.
    """
    found: dict[str, dict[str, type[WiringConfig]]] = {}
    kinds: dict[str, type[WiringConfig]] = {}
    for option, origin in offered(blocks.wiring, WiringConfig, "composer.wiring", nested=True):
        if not option.name:  # a kind, which its values bring along
            continue
        kind = kind_of(option)
        if kinds.setdefault(kind.key, kind) is not kind:
            raise ValueError(
                f"{origin}: the key {kind.key!r} is already taken by {kinds[kind.key].__module__}"
            )
        if option.model_fields and option.name not in option.model_fields:
            raise ValueError(f"{origin}: {option.__name__} has fields, but none called {option.name!r}")
        if found.setdefault(kind.key, {}).setdefault(option.name, option) is not option:
            taken = found[kind.key][option.name].__module__
            raise ValueError(f"{origin}: {kind.key}: {option.name} is already taken by {taken}")
    for key, options in found.items():
        if kinds[key].default not in options:
            raise ValueError(f"{kinds[key].__module__}: no option is called {kinds[key].default!r}")
    return {
        key: {name: options[name] for name in sorted(options, key=lambda n: (n != kinds[key].default, n))}
        for key, options in found.items()
    }


def all_wiring() -> list[type[WiringConfig]]:
    """Return all values of all keys of wiring."""
    return [option for options in wiring_options().values() for option in options.values()]
