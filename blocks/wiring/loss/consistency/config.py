"""The loss of two passes over a batch, a long and a short one. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Count, NonNegative
from blocks.base.wiring import Site
from blocks.ir.operation import Value
from blocks.wiring.loss import Lowered, ModelEnd
from blocks.wiring.loss.last import LastStep


class ConsistencyLoss(LastStep):
    """A second, shorter pass over the same batch is trained to match the states of the full pass.

    The loss is the cross-entropy of the full pass, plus `weight` times that of the short pass, plus
    `consistency` times the mean squared difference of their states after the final norm, with those of the
    full pass detached (LoopFormer, arXiv 2602.11451). Training costs include both passes. Evaluation,
    exported models and calls with at most `short` steps run only one pass.
    """

    name = "consistency"
    aliases = "shortcut two_pass self_consistency distill"
    second_steps = "short"

    consistency: NonNegative
    """The weight of the difference of states."""
    short: Annotated[Count, Field(examples=[1, 2])]
    """The number of steps of the short pass; the model must have exactly one recurrent stage."""
    weight: NonNegative = 0.1
    """The weight of the cross-entropy of the short pass."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Check that there is one recurrent stage, and that it runs more steps."""
        recurrent = [stage for stage in site.stages if stage.tied]
        if len(recurrent) != 1:
            got = f"{self.plain()} with {len(recurrent)} such stages"
            yield Problem("", "another loss, unless exactly one stage has recur", got)
        for stage in recurrent:
            if stage.varies:
                yield Problem("", "another loss, since training varies the number of steps", self.plain())
            if self.short >= stage.steps:
                yield Problem("short", f"fewer steps than the stage runs ({stage.steps})", self.short)

    def summary(self, site: Site) -> str:
        """Name the loss."""
        return f"cross-entropy, drawn to the states in {self.short} steps"

    def lower(self, build: Builder, end: ModelEnd) -> Lowered:
        """Hand the normed states to the second pass."""
        normed, made = self._ended(build, end)
        return made._replace(reported={"long_loss": made.loss}, handed=[normed])

    def lower_second(self, build: Builder, end: ModelEnd) -> Lowered:
        """Add the weighted losses of the second pass."""
        from blocks.primitives.scalars import AddWeighted, Zero
        from blocks.wiring.loss.consistency.operations import StateDistance

        normed, made = self._ended(build, end)
        distance = build.op("distance", StateDistance(build.width), normed, *end.handed, end.targets)
        zero = build.shared("zero", Zero())
        total = build.op("short", AddWeighted((self.weight, self.consistency)), zero, made.loss, distance)
        return Lowered(made.logits, total, {"short_loss": made.loss, "consistency": distance})

    def _ended(self, build: Builder, end: ModelEnd) -> tuple[Value, Lowered]:
        """Add the end of a pass; also return the normed states."""
        normed = end.norm(end.state)
        return normed, super().lower(build, end._replace(state=normed, norm=lambda state: state))
