"""Stages without input injection. Torch-free."""

from __future__ import annotations

from blocks.wiring.inject import Inject


class NoInjection(Inject):
    """The input is the state that the first step reads, and is not injected again."""

    name = "none"
    aliases = "false off null"
