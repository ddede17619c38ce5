"""Config and lowering of several residual streams. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from math import log
from typing import Literal

from blocks.base.builder import Builder
from blocks.base.config import Problem
from blocks.base.fields import Count
from blocks.base.wiring import Run, Site, WiringConfig
from blocks.ir.operation import ZEROS, Init, Value, Weight
from blocks.wiring.residual import Residual
from blocks.wiring.residual.add import AddResidual

Constraint = Literal["none", "doubly_stochastic", "diagonal"]


class StreamResidual(Residual):
    """Hyper-connections: n residual streams h, which each sublayer f maps to A h + b f(a h).

    The paper is arXiv 2409.19606; `constrain: doubly_stochastic` is mHC (arXiv 2512.24880); `constrain:
    diagonal` with `per: step` is Hyperloop (arXiv 2604.21254). The streams start as copies of the input. The
    result is their mean, so that the state keeps its scale in loops; the papers use the sum, followed by a
    norm. Initially each sublayer reads one stream, in turn.
    """

    name = "streams"
    order = -5  # outside what works on the one stream in a step
    aliases = "hyper_connections hyper_connection hyperconnections mhc residual_streams num_streams"

    streams: Count
    """The number of streams n."""
    mix: Literal["dynamic", "static"] = "dynamic"
    """`static`: a, b and A are learned constants; `dynamic`: they also depend on the token's streams."""
    constrain: Constraint = "none"
    """The constraint on A. `none`; `doubly_stochastic`: rows and columns sum to 1, by Sinkhorn iterations;
    `diagonal`: A is diagonal with elements in (0, 1). The latter two also keep a in (0, 1) and b in (0,
    2)."""
    per: Literal["sublayer", "step"] = "sublayer"
    """`sublayer`: f is a sublayer; `step`: f is the whole step, a residual network with a single stream."""

    def problems(self, site: Site) -> Iterator[Problem]:
        """Exclude what reads one stream, and a mix that would double the state at each step."""
        if self.per == "step":
            if self.constrain == "doubly_stochastic":
                expected = (
                    "none or diagonal beside per: step, since a step already adds its input to its output"
                )
                yield Problem("constrain", expected, self.constrain)
            return
        outside = site.model.get(self.key) == self
        beside = [each for options in (site.wiring, *site.entries) for each in options.items()]
        for key, option in dict.fromkeys(beside):
            if isinstance(option, WiringConfig) and option != self and self._hides(option, outside):
                expected = f"1 beside {key}: {option.name}, which reads a single stream"
                hint = "or set per: step, which has a single stream within a step"
                yield Problem("streams", expected, self.streams, hint)
        if any(options.get(self.key) != self for options in site.nested):
            expected = "the same residual in this stage and those in its step, since they share streams"
            yield Problem("streams", expected, self.streams)

    def spans_stages(self) -> bool:
        """Streams per sublayer span them."""
        return self.per == "sublayer"

    def _hides(self, option: WiringConfig, outside: bool) -> bool:
        """Return whether an option works where there are streams: behind the sum, in front of a step, or on
        the state of the first step, where the streams come from outside or are opened before.
        """
        kind, base = type(option), WiringConfig
        changed = kind.around_sublayer is not base.around_sublayer and option.order < 0
        first = kind.around_loop is not base.around_loop and (outside or option.order > self.order)
        return changed or first or kind.around_step is not base.around_step

    def summary(self, site: Site) -> str:
        """Say how they are mixed, and how often."""
        kind = {"none": "", "doubly_stochastic": ", doubly stochastic", "diagonal": ", diagonal"}
        return f"{self.streams} streams, {self.mix} mix{kind[self.constrain]}, per {self.per}"

    def around_model(self, build: Builder, x: Value, run: Run) -> Value:
        """Hold the streams from the embedding to the final norm; those per step belong to each stage."""
        return run(x) if self.per == "step" else self._within(build, x, run)

    def around_loop(self, build: Builder, x: Value, run: Run) -> Value:
        """Hold the streams through all steps, unless they come from outside."""
        return run(x) if build.open_streams else self._within(build, x, run)

    def around_step(self, build: Builder, x: Value, run: Run) -> Value:
        """Let a whole step read and write them."""
        return self._connect(build, x, run) if self.per == "step" else run(x)

    def around_sublayer(self, build: Builder, x: Value, run: Run) -> Value:
        """Let a sublayer read and write them."""
        if self.per == "sublayer":
            return self._connect(build, x, run)
        return AddResidual().around_sublayer(build, x, run)

    def single(self, build: Builder, x: Value) -> Value:
        """Return the mean of the streams."""
        from blocks.wiring.residual.streams.operations import CloseStreams

        return build.op("state", CloseStreams(build.width, self.streams, self.mix == "static"), x)

    def _within(self, build: Builder, x: Value, run: Run) -> Value:
        from blocks.wiring.residual.streams.operations import CloseStreams, OpenStreams

        apart = self.mix == "static"
        h = build.op("open", OpenStreams(build.width, self.streams, apart), x)
        build.open_streams = self.streams if self.per == "sublayer" else 0
        h = run(h)
        build.open_streams = 0
        return build.op("close", CloseStreams(build.width, self.streams, apart), h)

    def _connect(self, build: Builder, h: Value, run: Run) -> Value:
        from blocks.wiring.residual.streams.operations import (
            ReadStreams,
            StreamMaps,
            WriteStreams,
            mix_shape,
        )

        n, dynamic, width = self.streams, self.mix == "dynamic", build.width
        read, write, mix = self._starts()
        a = Weight("read", (n,), read, decay=False)
        b = Weight("write", (n,), write, decay=False)
        A = Weight("mix", mix_shape(n, self.constrain), mix, decay=False)
        reading = ReadStreams(width, n, dynamic, self.constrain)
        writing = WriteStreams(width, n, dynamic, self.constrain)
        if not dynamic:
            y = run(build.op("read", reading, h, weights=[a]))
            return build.op("write", writing, h, y, weights=[b, A])
        operation = StreamMaps(width, n, self.constrain)
        projection = Weight("maps", operation.weight_shapes()[0], ZEROS)
        scales = Weight("scales", (3,), Init("constant", 0.01), decay=False)
        maps = build.op("maps", operation, h, weights=[projection, scales, a, b, A])
        return build.op("write", writing, h, run(build.op("read", reading, h, maps)), maps)

    def _starts(self) -> tuple[Init, Init, Init]:
        """Return how a, b and A start, so that streams which are copies stay copies.

        Of a step, which hands on what it read, the streams keep nothing beside that.
        """
        step = self.per == "step"
        if self.constrain == "none":
            return Init("one_hot"), Init("constant", 1.0), ZEROS if step else Init("eye")
        main, others = 0.95, 0.05 / max(self.streams - 1, 1)
        read = Init("one_hot", _logit(main), _logit(others))
        if self.constrain == "doubly_stochastic":
            return read, ZEROS, Init("eye", 4.0)
        return read, ZEROS, Init("constant", -4.0 if step else 4.0)


def _logit(share: float) -> float:
    return log(share / (1 - share))
