"""Discovery of blocks and wiring options, in folders and through entry points."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import blocks
import blocks.wiring
from blocks.base.config import BlockConfig
from blocks.base.discover import discover, find_named, offered
from blocks.base.wiring import WiringConfig, kind_of
from blocks.options import Options

Wiring = dict[str, Options]


@cache
def block_types() -> dict[str, type[BlockConfig]]:
    """Map each block's `type` to its config class."""
    return discover(blocks, BlockConfig, "type", "composer.blocks")


@cache
def block_type(name: str) -> type[BlockConfig] | None:
    """Return the config class of a block or None, importing no other if its folder has its name."""
    return find_named(blocks, BlockConfig, "type", name) or block_types().get(name)


@cache
def wiring_options() -> Wiring:
    """Map each wiring key to its values.

    Raises:
        ValueError: see `add_options`.
    """
    wiring: Wiring = {}
    add_options(wiring, offered(blocks.wiring, WiringConfig, "composer.wiring"))
    return wiring


def add_options(wiring: Wiring, options: Iterable[tuple[type[WiringConfig], str]]) -> None:
    """Add options, each with its origin, under their keys; the class that declares a key adds the key.

    Raises:
        ValueError: an option's key or name is taken, an option with fields has none of its own name, or a
            key has no default.
    """
    for option, origin in options:
        if not option.key:  # a base class of values of several keys
            continue
        known = wiring.setdefault(option.key, Options(kind_of(option)))
        if option.name:
            known.add(option, origin)
    for known in wiring.values():
        if known.kind.default not in known:
            raise ValueError(f"{known.kind.__module__}: no option is called {known.kind.default!r}")


def all_wiring() -> list[type[WiringConfig]]:
    """Return the classes of all values of all wiring keys."""
    return [option for options in wiring_options().values() for option in options.values()]
