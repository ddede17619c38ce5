"""Discovery of blocks and wiring options, in folders and through entry points."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import blocks
import blocks.wiring
from blocks.base.config import BlockConfig
from blocks.base.discover import discover, find_named, offered
from blocks.base.wiring import WiringConfig, kind_of

Wiring = dict[str, dict[str, type[WiringConfig]]]


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
    """Map each wiring key to the classes of its values by name, the default first.

    Raises:
        ValueError: see `add_options`.
    """
    options: Wiring = {}
    add_options(options, offered(blocks.wiring, WiringConfig, "composer.wiring", nested=True))
    return options


def add_options(wiring: Wiring, options: Iterable[tuple[type[WiringConfig], str]]) -> None:
    """Add options, each with its origin, under their keys and names, the default of a key first.

    Raises:
        ValueError: an option's key or name is taken, an option with fields has none of its own name, or a
            key has no default.
    """
    for option, origin in options:
        if not option.name:  # the base class of a key's values
            continue
        kind = kind_of(option)
        known = wiring.setdefault(kind.key, {})
        if (taken := next((kind_of(each) for each in known.values()), kind)) is not kind:
            raise ValueError(f"{origin}: the key {kind.key!r} is already taken by {taken.__module__}")
        if option.model_fields and option.name not in option.model_fields:
            raise ValueError(f"{origin}: {option.__name__} has fields, but none called {option.name!r}")
        if (other := known.setdefault(option.name, option)) is not option:
            raise ValueError(f"{origin}: {kind.key}: {option.name} is already taken by {other.__module__}")
    for key, known in wiring.items():
        kind = kind_of(next(iter(known.values())))
        if kind.default not in known:
            raise ValueError(f"{kind.__module__}: no option is called {kind.default!r}")
        wiring[key] = {name: known[name] for name in sorted(known, key=lambda n: (n != kind.default, n))}


def all_wiring() -> list[type[WiringConfig]]:
    """Return the classes of all values of all wiring keys."""
    return [option for options in wiring_options().values() for option in options.values()]
