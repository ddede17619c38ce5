"""Few steps at the beginning of training, all of them later. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from blocks.base.config import Problem
from blocks.base.fields import Count, Untraced
from blocks.base.wiring import Site
from blocks.wiring.train import Phase, TrainedSteps


class LateSteps(TrainedSteps):
    """Fewer steps at first, then `steps` (late recurrence)."""

    name = "at"
    aliases = "late late_recurrence start switch"

    at: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False), Untraced()]
    """The share of the optimizer steps that run the smaller number, rounded to whole optimizer steps."""
    from_: Annotated[Count, Untraced(), Field(alias="from")] = 1
    """The smaller number of steps."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Refuse a number that is not below that of later."""
        if self.from_ >= site.steps:
            yield Problem("from", f"a number below steps ({site.steps})", self.from_)

    def phases(self, steps: int, optimizer_steps: int) -> Sequence[Phase]:
        """Return two phases with one number each."""
        switch = round(self.at * optimizer_steps)
        return (Phase(0, (self.from_,), (1.0,)), Phase(switch, (steps,), (1.0,)))
