"""Which blocks there are: every folder here, and every entry point of the group `composer.blocks`."""

from __future__ import annotations

from functools import cache

import blocks
from blocks.core.config import BlockConfig
from blocks.core.discover import discover


@cache
def block_types() -> dict[str, type[BlockConfig]]:
    """Map each block's `type` to its config class."""
    return discover(blocks, BlockConfig, "type", "composer.blocks")
