"""Gradients through all steps. Torch-free."""

from blocks.wiring.backprop import Backprop


class BackpropAll(Backprop):
    """Gradients go through all steps."""

    name = "all"
    aliases = "full none off"
