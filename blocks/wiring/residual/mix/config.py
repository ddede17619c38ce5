"""Config and lowering of residual mixes. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import field_validator

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Count
from blocks.base.stage_slots import StageSlots, last_token, offer_slots
from blocks.base.wiring import Run, Site, WiringConfig, acts_on_stage
from blocks.ir.graph import Graph, Loop
from blocks.ir.operation import ZEROS, Init, Value, Weight
from blocks.ir.walk import operations
from blocks.primitives.activations import Gelu
from blocks.primitives.operations import Sum
from blocks.wiring.residual import Residual
from blocks.wiring.residual.mix.operations import AttendValues, MixValues, SumValues, ValueCache, WriteValue
from blocks.wiring.residual.mix.token_operations import NormLatest, SumByToken

_VALUES = ".values"


@dataclass
class _Progress:
    """What a step has done of its sublayers: how many, and the value of the block that it is in."""

    sublayers: int = 0
    partial: Value | None = None


class MixedResidual(Residual):
    """A weighted sum of the stage's input and of what earlier sublayers, or blocks of them, made: the values.

    Each mix has weights of its own, which the steps share in a stage that recurs, and so has what the stage
    returns. `learned_query` is a softmax over w . RMSNorm(value), as in attention residuals (arXiv
    2603.15031); at w = 0, where training begins, it is the mean. `static` has a learned number for each
    value, as DenseFormer has for each state (arXiv 2402.02622); training begins at the plain residual sum.
    `token` adds to it W2 gelu(W1 RMSNorm(latest value)), as MUDDFormer does (arXiv 2502.12170), with W2 at 0
    at the start. The numbers go by how many values ago one was made, so that they mean the same at each step;
    early layers of a stack leave the rest of theirs unused.
    """

    name = "mix"
    changes_result = True
    unskippable = "which reads each sublayer"
    aliases = "attention_residuals attnres depth_mix dense"

    mix: Literal["learned_query", "static", "token"]
    """Where the weights of the sum come from."""
    heads: Count = 1
    """How many parts of the width have weights of their own."""
    over: Literal["sublayers", "blocks"] | Count = "sublayers"
    """Whether there is a value for each sublayer or for each block: a whole step, or as many sublayers as
    this says, the last block of a step perhaps of fewer. The value so far of a sublayer's own block is mixed
    as well.
    """
    of: Literal["outputs", "states"] = "outputs"
    """Whether a value is the output of a sublayer, summed in a block, or the state after it, which is what it
    read plus its output."""
    period: Count = 1
    """Before every how many sublayers of a step there is a mix, from the first; the others read the state."""

    @field_validator("over")
    @classmethod
    def _in_one_way(cls, over: Any) -> Any:
        return "sublayers" if over == 1 else over

    def problems(self, site: Site) -> Iterator[Problem]:
        """Refuse options that act on a residual stream, which does not exist here."""
        if site.width % self.heads:
            yield Problem("heads", f"a divisor of width {site.width}", self.heads)
        if self.period > max(len(site.entries), 1):
            expected = f"at most the {len(site.entries)} sublayers of a step, each of which begins with a mix"
            yield Problem("period", expected, self.period)
        if site.nested:
            yield Problem("", "another residual where a step holds stages, which make no update", self.name)
        for key, option in site.wiring.items():
            if key != self.key and acts_on_stage(option):
                yield self._refused(option, "acts around the stage or its steps")
        for norm in {each["norm"].name: each["norm"] for each in site.entries if "norm" in each}.values():
            if norm.order < self.order:
                yield self._refused(norm, "normalises the state after a sublayer")

    def _refused(self, option: WiringConfig, why: str) -> Problem:
        return Problem("", f"another residual beside {option.key}: {option.name}, which {why}", self.name)

    def words(self, site: Site) -> str:
        """Say what is summed."""
        heads = f", {self.heads} heads" if self.heads > 1 else ""
        how = {"learned_query": "a softmax over", "static": "a learned sum of"}.get(self.mix)
        how = how or "a sum, weighted by token, of"
        one, more = ("output", "sums") if self.of == "outputs" else ("state", "states")
        what = f"{one}s" if self.over == "sublayers" else f"blocks' {more}"
        who = "each reads" if self.period == 1 else f"every {self.period}. sublayer reads"
        return f"{who} {how} all earlier {what}{heads}"

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Keep room for the values; return the mix of all of them."""
        slots = offer_slots(build, _VALUES, ValueCache(build.width))
        run(x)
        last = last_token(build, _VALUES)
        return self._mixed(build, 1 + _written(build, last), [x], last, slots)

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Return the state as it came: it stays the stage's input, and sublayers write values beside it."""
        run(x)
        return x

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Read a mix of the values so far, or the state; return the state; write a value at a block's end.

        Where the next sublayer reads no state it returns the value instead.
        """
        step: _Progress = build.published.setdefault(_VALUES, _Progress())
        slots, number, end = StageSlots(build, _VALUES), step.sublayers, build.sublayers - 1
        size = build.sublayers if self.over == "blocks" else 1 if self.over == "sublayers" else self.over
        if number % self.period == 0:
            read = [build.stage_input(), *([] if step.partial is None else [step.partial])]
            most = len(read) + _writes(build.graph) + (build.trips() - 1) * -(-build.sublayers // size)
            x = self._mixed(build, most, read, slots.token, slots.value)
        update = run(x)
        state_is_read = number < end and (number + 1) % self.period != 0
        state = self._sum(build, x, update) if state_is_read or self.of == "states" else None
        value = state if self.of == "states" else self._sum(build, step.partial, update)
        assert value is not None
        ends = (number + 1) % size == 0 or number == end
        if ends:
            slots.set_token(build.op("write", WriteValue(build.width), value, slots.token, slots.value))
        step.sublayers, step.partial = number + 1, None if ends else value
        return value if state is None else state

    def _sum(self, build: Builder, before: Value | None, update: Value) -> Value:
        return update if before is None else build.op("add", Sum((build.width,)), before, update)

    def _mixed(self, build: Builder, most: int, read: Sequence[Value], token: Value, slots: Value) -> Value:
        partial = len(read) > 1
        if self.mix == "learned_query":
            operation: MixValues = AttendValues(build.width, self.heads, partial)
            query = Weight("mix", operation.weight_shapes()[0], ZEROS, decay=False)
            return build.op("mix", operation, *read, token, slots, weights=[query])
        # the sum of all outputs, or the latest state
        init = Init("constant", 1.0) if self.of == "outputs" else Init("first")
        weight = Weight("mix", (most, self.heads), init, decay=False)
        if self.mix == "static":
            operation = SumValues(build.width, self.heads, most, partial)
            return build.op("mix", operation, *read, token, slots, weights=[weight])
        hidden = self._hidden(build, most * self.heads, read[-1], partial, token, slots)
        shape = (most, self.heads)
        dynamic = build.project(hidden, "mix_down", shape, most * self.heads, init=ZEROS, bias=False)
        operation = SumByToken(build.width, self.heads, most, partial)
        return build.op("mix", operation, *read, dynamic, token, slots, weights=[weight])

    def _hidden(
        self, build: Builder, size: int, value: Value, partial: bool, token: Value, slots: Value
    ) -> Value:
        """Return gelu(W1 RMSNorm(latest value)), `value` or that of the last slot."""
        latest = build.op("mix_norm", NormLatest(build.width, partial), value, token, slots)
        return build.op("mix_gelu", Gelu(size), build.project(latest, "mix_up", (size,), bias=False))


def _written(build: Builder, token: Value) -> int:
    """Return how many values the stage that left a token has written."""
    loop = build.graph.node(token.node).op
    return loop.trips * _writes(loop.body) if isinstance(loop, Loop) else 0


def _writes(graph: Graph) -> int:
    return sum(isinstance(operation, WriteValue) for _, operation, _ in operations(graph))
