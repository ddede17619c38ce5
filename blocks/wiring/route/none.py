"""Stages in which all tokens run all steps. Torch-free."""

from blocks.wiring.route import Route


class NoRoute(Route):
    """All tokens run all steps."""

    name = "none"
    aliases = "false off null all"
