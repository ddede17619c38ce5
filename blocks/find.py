"""Which blocks there are: every folder here, and every entry point of the group `composer.blocks`."""

from __future__ import annotations

from functools import cache

import blocks
from blocks.base.config import BlockConfig
from blocks.base.discover import claim, discover


@cache
def block_types() -> dict[str, type[BlockConfig]]:
    """Map each block's `type` to its config class."""
    return discover(blocks, BlockConfig, "type", "composer.blocks")


def add_block(config: type[BlockConfig]) -> type[BlockConfig]:
    """Make a block known that no folder or entry point offers, for this process; before a spec is loaded.

    Raises:
        ValueError: its type is taken.
    """
    claim(block_types(), config, "type", f"{config.__module__}:{config.__name__}")
    return config
