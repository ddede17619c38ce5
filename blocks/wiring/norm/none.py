"""Sublayers without a norm. Torch-free."""

from __future__ import annotations

from blocks.wiring.norm import Norm


class NoNorm(Norm):
    """x + f(x): blocks read the stream as it is."""

    name = "none"
    aliases = "off null no"
