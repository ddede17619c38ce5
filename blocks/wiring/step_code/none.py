"""Steps that do not know their number. Torch-free."""

from __future__ import annotations

from blocks.wiring.step_code import StepCode


class NoStepCode(StepCode):
    """The step does not depend on its number."""

    name = "none"
    aliases = "false off null"
