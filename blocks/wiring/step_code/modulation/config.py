"""Config and lowering of modulation by the step. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Count
from blocks.base.wiring import Run, Site
from blocks.ir.operation import ZEROS, Init, Value, Weight
from blocks.wiring.step_code import StepCodeInRecur


class Modulation(StepCodeInRecur):
    """Norm and output of each sublayer are scaled by functions of the step (LoopFormer, arXiv 2602.11451).

    With t = step / steps and dt = 1 / steps, the code c is the sum of two MLPs, of sines and cosines of t and
    of dt. Each sublayer is x + (U silu(c) + u) f((V silu(c) + v) norm(x)). U and V are initialized to 0, u
    and v to 1, so that the model starts without modulation; the paper initializes u to 0, so that sublayers
    start as the identity.
    """

    name = "modulation"
    aliases = "adaln adaptive film timestep"
    # within the norm, which it scales
    order = 15

    modulation: Count = 256
    """The number of sines and cosines that encode t, and as many for dt."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Refuse it without a norm in front of each block, which it scales."""
        yield from super().problems(site)
        norms = [options["norm"] for options in (site.wiring, *site.entries) if "norm" in options]
        norm = next((each for each in norms if each.name != "pre"), None)
        if norm is not None:
            expected = f"none, embedding or sinusoidal beside norm: {norm.name}"
            yield Problem("", f"{expected}, since modulation needs norm: pre", self.name)

    def summary(self, site: Site) -> str:
        """Say what is modulated."""
        return "norms and updates scaled by the step"

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Compute the step's code before the step."""
        build.of_step("step_code", self._code)
        return run(x)

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Scale what the block reads and what it returns."""
        code = build.of_step("step_code", self._code)
        return _modulated(build, "update", run(_modulated(build, "norm", x, code)), code)

    def _code(self, build: Builder) -> Value:
        from blocks.wiring.step_code.modulation.operations import StepPosition

        width, size = build.width, self.modulation
        weights = [
            weight
            for name in ("t", "dt")
            for weight in (
                Weight(f"step_code_{name}_in", (width, size), Init("normal", size**-0.5)),
                Weight(f"step_code_{name}_in_bias", (width,), ZEROS, decay=False),
                Weight(f"step_code_{name}_out", (width, width), Init("normal", width**-0.5)),
                Weight(f"step_code_{name}_out_bias", (width,), ZEROS, decay=False),
            )
        ]
        return build.op("step_code", StepPosition(width, size, build.trips(), build.trip()), weights=weights)


def _modulated(build: Builder, what: str, x: Value, code: Value) -> Value:
    from blocks.wiring.step_code.modulation.operations import Modulate

    width = build.width
    weights = [
        Weight(f"{what}_modulation", (width, width), ZEROS),
        Weight(f"{what}_modulation_bias", (width,), Init("constant"), decay=False),
    ]
    return build.op(f"{what}_scale", Modulate(width), x, code, weights=weights)
