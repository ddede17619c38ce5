"""Config and lowering of residual mixes. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Count
from blocks.base.invalid import independent
from blocks.base.sublayer import SublayerPlace, View
from blocks.base.wiring import Run, Site, WiringConfig, acts_on_stage
from blocks.ir.operation import Init, Value
from blocks.primitives.operations import Sum
from blocks.wiring.residual import Residual

if TYPE_CHECKING:
    from blocks.wiring.residual.mix.mixes import Mixes

_VALUES = ".values"

Kind = Literal["learned_query", "static", "token", "relu_query"]
_Apart = Literal["q", "k", "v", "residual"]


class MixedResidual(Residual):
    """Each sublayer reads a weighted sum of values: the stage's input and the outputs of earlier sublayers.

    Each sublayer, and the result of the stage, has its own weights for the sum; steps of a recurrent stage
    share them. `learned_query`: a softmax over w . RMSNorm(value), as in attention residuals (arXiv
    2603.15031), with w initialized to 0, which gives the mean. `static`: a learned number per value, as in
    DenseFormer (arXiv 2402.02622), initialized to the plain residual sum. `token`: `static` plus
    W2 gelu(W1 RMSNorm(latest value)), as in MUDDFormer (arXiv 2502.12170), with W2 initialized to 0.
    `relu_query`: b + ReLU(w . RMSNorm(value)), as in DeepCrossAttention (arXiv 2502.06785), with b per value
    and channel, and w initialized to 0.

    Weights are indexed by distance, counted back from the latest value, so that they mean the same at each
    step; early layers of a stack use only some of theirs.
    """

    name = "mix"
    changes_result = True
    unskippable = "which reads each sublayer"
    aliases = "attention_residuals attnres depth_mix dense"

    mix: Kind
    """How the weights of the sum are computed."""
    heads: Count = 1
    """The number of parts of the width, each with its own weights."""
    over: Literal["sublayers", "blocks"] | Count = "sublayers"
    """`sublayers`: one value per sublayer; `blocks`: one per step; a number n: one per n sublayers of a step
    (the last group may be smaller). The partial value of the current group is part of the sum.
    """
    of: Literal["outputs", "states"] = "outputs"
    """`outputs`: a value is the output of a sublayer, or the sum of a group's outputs; `states`: it is the
    state after the sublayer, its input plus its output."""
    period: Count = 1
    """Only every n-th sublayer of a step, from the first on, reads a mix; the others read the state."""
    views: Annotated[tuple[_Apart, ...], Field(examples=[["k", "v"], ["q", "k", "v"]])] = ()
    """The inputs with a separate mix: those of queries (`q`), keys (`k`) and values (`v`) of attention, and
    the state that the output is added to. All others share one mix. MUDDFormer separates all four,
    DeepCrossAttention (arXiv 2502.06785) keys and values.
    """

    @field_validator("over")
    @classmethod
    def _in_one_way(cls, over: Any) -> Any:
        return "sublayers" if over == 1 else over

    @field_validator("views")
    @classmethod
    def _in_order(cls, views: tuple[_Apart, ...]) -> tuple[_Apart, ...]:
        if len({*views}) < len(views):
            raise ValueError("expected each view once")
        return tuple(view for view in get_args(_Apart) if view in views)

    def problems(self, site: Site) -> Iterator[Problem]:
        """Refuse options that act on a residual stream, which does not exist here."""
        yield from independent(self._sizes(site), self._unread(site), self._others(site))

    def _sizes(self, site: Site) -> Iterator[Problem]:
        if site.width % self.heads:
            yield Problem("heads", f"a divisor of width {site.width}", self.heads)
        if self.period > max(len(site.entries), 1):
            expected = f"at most {len(site.entries)}, the number of sublayers in a step"
            yield Problem("period", expected, self.period)

    def _unread(self, site: Site) -> Iterator[Problem]:
        mixed = [place for place in site.sublayers if self._has_mix(place)]
        read = {view for place in mixed for view in (*place.views, *self._state(place))}
        for view in (view for view in self.views if view not in read):
            hint = "q, k and v are inputs of attention, and no attention block reads a mix"
            if view == "residual":
                hint = "residual is read only with of: states or a period above 1"
            yield Problem("views", "only views that some sublayer reads", view, hint)

    def _others(self, site: Site) -> Iterator[Problem]:
        if site.nested:
            expected = (
                "another residual in a stage whose step holds stages, since mix sums outputs of sublayers"
            )
            yield Problem("", expected, self.name)
        for key, option in site.wiring.items():
            if key != self.key and acts_on_stage(option):
                yield self._refused(option, "acts on the state of the whole stage")
        for norm in {each["norm"].name: each["norm"] for each in site.entries if "norm" in each}.values():
            if norm.order < self.order:
                yield self._refused(norm, "normalises the state after a sublayer")

    def _refused(self, option: WiringConfig, why: str) -> Problem:
        return Problem("", f"another residual beside {option.key}: {option.name}, which {why}", self.name)

    def summary(self, site: Site) -> str:
        """Say what is summed."""
        heads = f", {self.heads} heads" if self.heads > 1 else ""
        how = {
            "learned_query": "a softmax over",
            "static": "a learned sum of",
            "relu_query": "a rectified sum of",
        }.get(self.mix)
        how = how or "a sum, weighted by token, of"
        one, more = ("output", "sums") if self.of == "outputs" else ("state", "states")
        what = f"{one}s" if self.over == "sublayers" else f"blocks' {more}"
        who = "each reads" if self.period == 1 else f"one in {self.period} sublayers reads"
        apart = f", separately for {', '.join(self.views)}" if self.views else ""
        return f"{who} {how} all earlier {what}{heads}{apart}"

    def makes_views(self, place: SublayerPlace) -> list[View]:
        """Return the views with a mix of their own; where all have one, the first is the input."""
        apart: list[View] = [view for view in self.views if view != "residual" and view in place.views]
        return (apart if place.views - {*apart} else apart[1:]) if self._has_mix(place) else []

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Keep room for the values; return the mix of all of them."""
        from blocks.base.stage_slots import last_token, offer_slots
        from blocks.wiring.residual.mix.mixes import written
        from blocks.wiring.residual.mix.operations import ValueCache

        slots = offer_slots(build, _VALUES, ValueCache(build.width))
        run(x)
        last = last_token(build, _VALUES)
        (mixed,) = self._mixes(build, 1 + written(build, last), [x], last, slots).add("mix")
        return mixed

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Return the state as it came: it stays the stage's input, and sublayers write values beside it."""
        run(x)
        return x

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Read a mix of the values so far, or the state; return the state; write a value at a block's end.

        Where the next sublayer reads no state it returns the value instead.
        """
        from blocks.base.stage_slots import StageSlots
        from blocks.wiring.residual.mix.mixes import writes
        from blocks.wiring.residual.mix.operations import WriteValue

        place, slots, width = build.sublayer, StageSlots(build, _VALUES), build.width
        size = {"sublayers": 1, "blocks": place.of}.get(str(self.over)) or int(self.over)
        partial: Value | None = build.published.get(_VALUES)
        if self._has_mix(place):
            read = [build.stage_input(), *([] if partial is None else [partial])]
            most = len(read) + writes(build.graph) + (build.trips() - 1) * -(-place.of // size)
            x, update = self._read(build, self._mixes(build, most, read, slots.token, slots.value), run)
        else:
            update = run(x)
        state = self._sum(build, x, update) if self._state(place) else None
        value = self._sum(build, partial, update) if self.of == "outputs" else state
        assert value is not None
        ends = (place.number + 1) % size == 0 or place.number + 1 == place.of
        if ends:
            slots.set_token(build.op("write", WriteValue(width), value, slots.token, slots.value))
        build.published[_VALUES] = None if ends else value
        return value if state is None else state

    def _has_mix(self, place: SublayerPlace) -> bool:
        return place.number % self.period == 0

    def _state(self, place: SublayerPlace) -> list[_Apart]:
        """Return the view `residual` where the state after a sublayer is a value, or the next reads it."""
        goes_on = place.number + 1 < place.of and not self._has_mix(place._replace(number=place.number + 1))
        return ["residual"] if goes_on or self.of == "states" else []

    def _read(self, build: Builder, mixes: Mixes, run: Run) -> tuple[Value, Value]:
        """Return the state that a sublayer adds its output to, if that is read, and this output."""
        place = build.sublayer
        reads = {*place.views, *self._state(place)}
        apart = [view for view in self.views if view in reads]
        # one for all others, if there are others
        names = ["input", *apart] if reads - {*apart} else apart
        made = dict(
            zip(names, mixes.add(*("mix" if n == "input" else f"mix_{n}" for n in names)), strict=True)
        )
        read = made["input" if place.views - {*apart} else apart[0]]
        with build.views({view: made[view] for view in self.makes_views(place)}):
            return made.get("residual", made.get("input", read)), run(read)

    def _sum(self, build: Builder, before: Value | None, update: Value) -> Value:
        return update if before is None else build.op("add", Sum((build.width,)), before, update)

    def _mixes(self, build: Builder, most: int, own: Sequence[Value], token: Value, slots: Value) -> Mixes:
        from blocks.wiring.residual.mix.mixes import Mixes

        # training begins at the sum of all outputs, or the latest state
        start = Init("constant", 1.0) if self.of == "outputs" else Init("first")
        return Mixes(build, self.mix, self.heads, start, most, own, token, slots)
