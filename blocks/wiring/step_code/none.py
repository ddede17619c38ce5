"""Steps that do not know their number. Torch-free."""

from __future__ import annotations

from blocks.wiring.step_code import StepCode


class NoStepCode(StepCode):
    """Nothing."""

    name = "none"
    aliases = "false off null"
