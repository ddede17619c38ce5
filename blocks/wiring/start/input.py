"""Stages that start from their input. Torch-free."""

from __future__ import annotations

from blocks.wiring.start import Start


class StartFromInput(Start):
    """The stage's input."""

    name = "input"
    aliases = "embedding embed x"
