"""A learned vector for each step. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run, Site
from blocks.ir.operation import ZEROS, Value, Weight
from blocks.primitives.operations import AddStepBias
from blocks.wiring.step_code import StepCodeInRecur


class StepEmbedding(StepCodeInRecur):
    """A learned vector per step, initialized to 0, is added to the state before the step.

    The stage can then run only with the number of steps it was trained with.
    """

    name = "embedding"
    aliases = "learned bias true"
    weights_per_step = True

    def summary(self, site: Site) -> str:
        """Count the vectors."""
        return f"a vector for each of {site.steps} steps"

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Add the step's vector before the step."""
        steps = build.trips()
        weight = Weight("step_code", (steps, build.width), ZEROS, decay=False)
        return run(build.op("step_code", AddStepBias(build.width, steps, build.trip()), x, weights=[weight]))
