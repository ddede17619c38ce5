"""Sublayers without a norm. Torch-free."""

from __future__ import annotations

from blocks.wiring.norm import Norm


class NoNorm(Norm):
    """x + f(x), without norms."""

    name = "none"
    aliases = "off null no"
