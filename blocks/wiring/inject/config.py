"""Config and lowering of input injection. Torch-free."""

from __future__ import annotations

from blocks.base.builder import Builder
from blocks.base.wiring import Run, Site, WiringConfig
from blocks.ir.operation import Init, Value, Weight
from blocks.wiring.inject.operations import InjectAdd, InjectConcat


class Inject(WiringConfig):
    """How the stage's input enters again before each step: added after step 0, or by a learned 2d -> d."""

    key = "inject"
    default = "none"
    key_aliases = "input_injection injection inject_input reinject skip"
    recurrent = True


class NoInjection(Inject):
    """The input enters once, as the state of the first step."""

    name = "none"
    aliases = "false off null"


class AddInput(Inject):
    """The input is added to the state before every step but the first."""

    name = "add"
    aliases = "sum true plus residual"

    def words(self, site: Site) -> str:
        """Say from when on."""
        return "stage's input added from step 2 on"

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Add the stage's input before the step."""
        return run(build.op("inject", InjectAdd(build.width, build.trip()), x, build.stage_input()))


class ConcatInput(Inject):
    """A learned projection of [state, input] takes the state's place; it starts as [I, 0]."""

    name = "concat"
    aliases = "cat concatenate linear"

    def words(self, site: Site) -> str:
        """Give the widths."""
        return f"[state, stage's input] {2 * site.width} → {site.width}"

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Project state and input before the step."""
        operation = InjectConcat(build.width)
        weight = Weight("inject", operation.weight_shapes()[0], Init("eye"))
        return run(build.op("inject", operation, x, build.stage_input(), weights=[weight]))
