"""The key `step_code`; each value is a file here. Torch-free."""

from collections.abc import Iterator

from blocks.base.config import Problem
from blocks.base.wiring import Site, WiringConfig


class StepCode(WiringConfig):
    """How the number of the current step enters the step; added codes come after `inject`."""

    key = "step_code"
    default = "none"
    key_aliases = "step_embedding timestep_embedding time_embedding loop_embedding step_encoding"
    recurrent = True
    # inside of `inject`
    order = 5


class StepCodeInRecur(StepCode):
    """Base class of step codes for steps that share weights."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Refuse it if each step has separate weights."""
        if not site.tied:
            yield Problem(
                "", "none in a stack, since each of its layers already has its own weights", self.name
            )
