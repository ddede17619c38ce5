"""Wiring options of somebody else: two keys that are not in the language without this file."""

from __future__ import annotations

from collections.abc import Iterator

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Positive
from blocks.base.wiring import Run, Site, WiringConfig
from blocks.ir.operation import Value
from blocks.wiring.residual.scale import Scale


class StepCode(WiringConfig):
    """What a step knows of its number."""

    key = "step_tag"
    default = "none"
    key_aliases = "step_marker"
    recurrent = True


class NoStepCode(StepCode):
    """Nothing."""

    name = "none"


class StepEmbedding(StepCode):
    """A learned vector for each step, added to the state before it."""

    name = "embedding"
    aliases = "learned"

    def problems(self, site: Site) -> Iterator[Problem]:
        if site.steps == 1:
            yield Problem("", "none in a stage of one step", self.name)
        if site.wiring["inject"].plain() == "concat":
            yield Problem("", "none beside inject: concat", self.name)

    def summary(self, site: Site) -> str:
        return f"a vector for each of {site.steps} steps"

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        return run(build.add_step_bias(x, "step_tag"))


class Start(WiringConfig):
    """The state that the first step starts from."""

    key = "entrance"
    default = "input"


class StartInput(Start):
    """The stage's input."""

    name = "input"


class StartScaled(Start):
    """The stage's input times a number."""

    name = "scaled"

    scaled: Positive = 0.5
    """The number."""

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        return run(build.op("entrance", Scale((build.width,), self.scaled), x))
