"""Adaptive computation time. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Positive, Untraced
from blocks.base.wiring import Run, Site
from blocks.ir.operation import Init, Value, Weight
from blocks.primitives.operations import Project
from blocks.wiring.halt import Halt
from blocks.wiring.start.zeros import Zeros

_STATE, _PROBABILITY, _PONDER = "halt_state", "halt_probability", "halt_ponder"


class AdaptiveComputationTime(Halt):
    """Adaptive computation time: a token halts once its halting probabilities add up to a threshold.

    The halting probability p_t of step t is the sigmoid of a linear layer on the state before it. The weight
    w_t of step t is p_t, the remainder to 1 at the step at which the token halts, and 0 after that. The
    output of the stage is y_t = w_t s_t + (1 - w_t) y_{t-1} with y_0 = 0, where s_t is the state after step
    t, as in the Universal Transformer (arXiv 1807.03819, after arXiv 1603.08983). All steps run for all
    tokens, since other tokens may attend to one that has halted.
    """

    name = "act"
    aliases = "adaptive ponder adaptive_computation_time"

    act: Annotated[Positive, Field(examples=[0.01]), Untraced()]
    """The weight of the ponder cost in the training loss: the mean over tokens of the number of steps plus
    the remainder. The Universal Transformer uses 0.01.
    """
    threshold: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False, examples=[0.9]), Untraced()] = 0.99
    """The cumulative probability above which a token halts."""

    changes_result = True

    def problems(self, site: Site) -> Iterator[Problem]:
        """Check that there are steps to choose from, and one state to look at."""
        if not site.tied or site.steps == 1:
            yield Problem("", "none, unless the stage has recur: 2 or more", self.plain())
        residual = site.wiring.get("residual")
        if residual is not None and residual.name == "streams":
            expected = "none beside residual: streams, since halting needs a single state per token"
            yield Problem("", expected, self.plain())

    def summary(self, site: Site) -> str:
        """Say that tokens halt."""
        return f"tokens halt at {self.threshold:g}, ponder cost x {self.act:g}"

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Carry what halting has come to, and return the weighted state."""
        from blocks.wiring.halt.act.operations import HaltStart, TokenMean

        state = build.op(_STATE, Zeros((build.width,)), x)
        start = build.op("halt_start", HaltStart(build.width), x)
        build.next.carried = {_STATE: state, _PROBABILITY: start, _PONDER: Value(start.node, 1)}
        run(x)
        build.next.carried, left = {}, build.last_carried
        mean = build.op("ponder_mean", TokenMean(), left[_PONDER])
        build.auxiliary_loss("ponder_cost", mean, self.act)
        return left[_STATE]

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Decide by the state before the step, and update by the state after it."""
        from blocks.wiring.halt.act.operations import HaltUpdate

        weight = Weight("halt", (1, build.width), Init("normal", build.width**-0.5))
        # at first about three quarters of a token halt at once
        bias = Weight("halt_bias", (1,), Init("constant", 1.0), decay=False)
        logit = build.op("halt", Project(build.width, ((1,),), True), x, weights=[weight, bias])
        after = run(x)
        carried = (build.carried[name] for name in (_STATE, _PROBABILITY, _PONDER))
        done = build.op("halt_update", HaltUpdate(build.width, self.threshold), logit, after, *carried)
        outputs = (Value(done.node, number) for number in range(3))
        build.carried = dict(zip((_STATE, _PROBABILITY, _PONDER), outputs, strict=True))
        return after
