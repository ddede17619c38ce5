"""Weights of each step beside those that all steps share. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Count
from blocks.base.operations import StepWeights
from blocks.base.wiring import Run, Site, WiringConfig
from blocks.ir.operation import Init, Value, Weight


class PerStep(WiringConfig):
    """Weights per step, in addition to the shared ones; `norm`, `scale` and `lora` can be combined.

    The stage can then run only with the number of steps it was trained with.
    """

    key = "per_step"
    default = "none"
    key_aliases = "step_weights loop_weights adapters"
    recurrent = True
    # what the options of a sublayer add is part of the step, so it is outside of them; see `around_sublayer`
    order = 5


class NothingPerStep(PerStep):
    """None: the steps share all weights."""

    name = "none"
    aliases = "false off null shared tied"


class _OwnWeights(PerStep):
    """Any of the three."""

    weights_per_step = True

    def chosen(self) -> tuple[bool, bool, int]:
        """Return whether gains of norms are per step, whether outputs have a scale, and the rank, or 0."""
        norm, scale, rank = (getattr(self, field, 0) for field in ("norm", "scale", "lora"))
        return bool(norm), bool(scale), rank

    def problems(self, site: Site) -> Iterator[Problem]:
        """Refuse it where all weights are per step."""
        if not site.tied:
            yield Problem(
                "", "none in a stack, since each of its layers already has its own weights", self.plain()
            )

    def summary(self, site: Site) -> str:
        """List what each step has of its own."""
        norm, scale, rank = self.chosen()
        own = ["gains" if norm else "", "scales" if scale else "", f"rank {rank} adapters" if rank else ""]
        return f"own {', '.join(filter(None, own))} per step"

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Let norms and projections of the step have weights per step."""
        norm, _, rank = self.chosen()
        with build.step_weights(StepWeights(norm, rank, build.trips(), build.trip())):
            return run(x)

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Scale the update."""
        if not self.chosen()[1]:
            return run(x)
        from blocks.primitives.step_operations import ScaleStep

        steps = build.trips()
        weight = Weight("step_scale", (steps,), Init("constant"), decay=False)
        operation = ScaleStep((build.width,), steps, build.trip())
        return build.op("step_scale", operation, run(x), weights=[weight])


class NormPerStep(_OwnWeights):
    """`norm: true`: all norms of blocks and sublayers have one gain per step."""

    name = "norm"
    aliases = "gain gains norms"

    norm: Literal[True] = True
    """Whether norm gains are per step."""
    scale: bool = False
    """Whether each sublayer's output has a learned factor per step, initialized to 1."""


class ScalePerStep(_OwnWeights):
    """`scale: true`: the output of each sublayer has a learned factor per step."""

    name = "scale"
    aliases = "scalar factor"

    scale: Literal[True] = True
    """Whether each sublayer's output has a learned factor per step, initialized to 1."""


class LoraPerStep(_OwnWeights):
    """`lora: r`: each step has a LoRA of every projection (Relaxed Recursive Transformers, arXiv 2410.20672).

    It adds B A to the weight, with A [r, fan-in] initialized from a normal distribution and B [fan-out, r] to
    0. Routed experts have none.
    """

    name = "lora"
    aliases = "adapter low_rank rank"

    lora: Count
    """The rank r."""
    norm: bool = False
    """Whether norm gains are per step."""
    scale: bool = False
    """Whether each sublayer's output has a learned factor per step, initialized to 1."""
