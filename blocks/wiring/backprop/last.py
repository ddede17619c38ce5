"""Truncated backpropagation: gradients go through the last steps only. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Count
from blocks.base.wiring import Run, Site
from blocks.ir.operation import Value
from blocks.wiring.backprop import Backprop
from blocks.wiring.loss import Loss


class BackpropLast(Backprop):
    """Gradients go through the last steps only, as in Huginn (arXiv 2502.05171).

    The state and the depth slots of earlier steps are detached. Layers before the stage get gradients through
    `inject` in the last steps.
    """

    name = "last"
    aliases = "truncated"

    last: Count
    """The number of steps with gradients; all steps if fewer run."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Refuse what would get no gradient, and losses that read every step."""
        if not site.tied:
            yield Problem("", "all in a stack, whose first layers would not be trained", self.plain())
            return
        inject, start = site.wiring.get("inject"), site.wiring.get("start")
        if inject is not None and inject.name == "none":
            expected = "all beside inject: none, since nothing before the stage would be trained"
            yield Problem("", expected, self.plain())
        if start is not None and start.name == "learned":
            yield Problem("", "all beside start: learned, which only the first step reads", self.plain())
        loss = site.model.get("loss")
        if site.is_last and isinstance(loss, Loss) and loss.reads_steps:
            yield Problem("", f"all beside loss: {loss.name}, which reads every step", self.plain())

    def summary(self, site: Site) -> str:
        """Say through how many steps."""
        return f"gradients through the last {self.last} steps"

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Mark the loop."""
        build.next.backprop = self.last
        x = run(x)
        build.next.backprop = None
        return x
