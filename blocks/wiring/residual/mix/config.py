"""Config and lowering of residual mixes. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Count
from blocks.base.stage_slots import StageSlots, last_token, offer_slots
from blocks.base.wiring import Run, Site, WiringConfig, acts_on_stage
from blocks.ir.operation import ZEROS, Value, Weight
from blocks.wiring.residual import Residual
from blocks.wiring.residual.mix.operations import AttendValues, ValueCache, WriteValue

_VALUES = ".values"


class MixedResidual(Residual):
    """A weighted sum of the stage's input and the outputs of all earlier sublayers (attention residuals).

    `learned_query` is a softmax over the values v_i of w . RMSNorm(v_i) (arXiv 2603.15031), with a vector w
    for each sublayer and one for what the stage returns; at w = 0, where training begins, it is their mean.
    """

    name = "mix"
    changes_result = True
    aliases = "attention_residuals attnres depth_mix dense"

    mix: Literal["learned_query"]
    """Where the weights of the sum come from."""
    heads: Count = 1
    """How many parts of the width have weights of their own."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Refuse options that act on a residual stream, which does not exist here."""
        if site.width % self.heads:
            yield Problem("heads", f"a divisor of width {site.width}", self.heads)
        if site.nested:
            yield Problem("", "another residual where a step holds stages, which make no update", self.name)
        for key, option in site.wiring.items():
            if key != self.key and acts_on_stage(option):
                yield self._refused(option, "changes the state between steps")
        for norm in {each["norm"].name: each["norm"] for each in site.entries if "norm" in each}.values():
            if norm.order < self.order:
                yield self._refused(norm, "normalises the state after a sublayer")

    def _refused(self, option: WiringConfig, why: str) -> Problem:
        return Problem("", f"another residual beside {option.key}: {option.name}, which {why}", self.name)

    def words(self, site: Site) -> str:
        """Say what is summed."""
        heads = f", {self.heads} heads" if self.heads > 1 else ""
        return f"each reads a softmax over all earlier outputs{heads}"

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Keep room for the values; return the mix of all of them."""
        slots = offer_slots(build, _VALUES, ValueCache(build.width))
        run(x)
        return self._mixed(build, x, last_token(build, _VALUES), slots)

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Read the mix of the values so far, and write one more; the stream stays the stage's input."""
        slots = StageSlots(build, _VALUES)
        update = run(self._mixed(build, build.stage_input(), slots.token, slots.value))
        slots.set_token(build.op("write", WriteValue(build.width), update, slots.token, slots.value))
        return x

    def _mixed(self, build: Builder, start: Value, token: Value, slots: Value) -> Value:
        query = Weight("mix", (build.width,), ZEROS, decay=False)
        return build.op("mix", AttendValues(build.width, self.heads), start, token, slots, weights=[query])
