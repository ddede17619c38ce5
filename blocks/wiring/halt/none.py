"""Stages whose tokens all run all steps. Torch-free."""

from blocks.wiring.halt import Halt


class NoHalt(Halt):
    """All tokens are updated at all steps."""

    name = "none"
    aliases = "false off null"
