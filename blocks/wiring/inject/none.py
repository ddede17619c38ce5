"""Stages without input injection. Torch-free."""

from __future__ import annotations

from blocks.wiring.inject import Inject


class NoInjection(Inject):
    """The input enters once, as the state of the first step."""

    name = "none"
    aliases = "false off null"
