"""Loops that specs cannot say yet: the first stage is lowered by a test, which also runs it in `naive`."""

from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import naive

from blocks.ir.costs import SavedTensors
from blocks.ir.kernel import Kernel
from blocks.ir.operation import Init, Operation, Weight, expect
from blocks.ir.tensor_type import TensorType
from blocks.primitives.operations import Sum
from composer.graph.lowering import build as lowering
from composer.language.schema.at import runs_at

MASK = TensorType((1,), "bool")


@dataclass(frozen=True)
class Mix(Operation):
    """The values of all steps, weighted: (steps) -> y."""

    width: int
    steps: int

    kernels = (Kernel("mix", "loops:mix", "a test's own"),)

    def types(self, inputs):
        expect(self, inputs, TensorType((self.steps, self.width), "stream", "steps"))
        return (TensorType((self.width,), "stream"),)

    def weight_shapes(self):
        return ((self.steps,),)

    def saved(self, at):
        return SavedTensors(inputs=(0,))


@dataclass(frozen=True)
class Runs(Operation):
    """Which tokens run on, a mask: (x) -> mask."""

    width: int

    kernels = (Kernel("runs", "loops:runs", "a test's own"),)
    recomputable = False

    def types(self, inputs):
        expect(self, inputs, (self.width,))
        return (MASK,)

    def saved(self, at):
        return SavedTensors()


@dataclass(frozen=True)
class Choose(Operation):
    """The new state of tokens that run, else the old one: (mask, new, old) -> x."""

    width: int

    kernels = (Kernel("choose", "torch:where", "a test's own"),)
    recomputable = False

    def types(self, inputs):
        expect(self, inputs, MASK, (self.width,), (self.width,))
        return (inputs[1],)

    def saved(self, at):
        return SavedTensors(inputs=(0,))


def mix(values, weight):
    return sum(share * value for share, value in zip(weight, values, strict=True))


def runs(x):
    return x[..., :1] > 0


def collected(what):
    """Return a lowering that mixes what each step hands out: its `state`, `start`, or a value `inside`."""

    def fill(build, name, stage, spec, x):
        def step(body, x):
            y = lowering._step(stage, lowering.stage_options(spec.model, stage), spec, body, x)
            inside = body.norm(y, "read", (body.width,)) if what == "inside" else None
            body.collect(inside or {"state": y, "start": x}[what])
            return [y]

        loop = build.loop(name, stage.trips, stage.tied, [x], step)
        weight = Weight("mixed", (stage.trips,), Init("constant", 1.0))
        mixed = build.op("mixed", Mix(build.width, stage.trips), *loop.collected, weights=[weight])
        return build.op("joined", Sum((build.width,)), loop.states[0], mixed)

    def reference(row, stage, path, x):
        values = []
        for n in range(stage.trips):
            at = f"{path}.step" if stage.tied else f"{path}.layers.{n}"
            y = _naive_step(row, stage, at, n, x)
            inside = [naive.rms_norm(vector, row.w[f"{at}.read"]) for vector in y] if what == "inside" else y
            values.append(x if what == "start" else inside)
            x = y
        shares = row.w["mixed"]
        return [
            vector + sum(share * value[t] for share, value in zip(shares, values, strict=True))
            for t, vector in enumerate(x)
        ]

    return fill, reference


def halting():
    """Return a lowering that carries the state, a sum of all states, and a mask of the tokens that run on."""

    def fill(build, name, stage, spec, x):
        def step(body, x, total, mask):
            y = lowering._step(stage, lowering.stage_options(spec.model, stage), spec, body, x)
            x = body.op("choose", Choose(body.width), mask, y, x)
            return [x, body.op("total", Sum((body.width,)), total, x), body.op("runs", Runs(body.width), x)]

        mask = build.op("runs", Runs(build.width), x)
        loop = build.loop(name, stage.trips, stage.tied, [x, x, mask], step)
        return build.op("joined", Sum((build.width,)), *loop.states[:2])

    def reference(row, stage, path, x):
        total, mask = x, [bool(vector[0] > 0) for vector in x]
        for n in range(stage.trips):
            y = _naive_step(row, stage, f"{path}.step", n, x)
            x = [new if runs else old for new, old, runs in zip(y, x, mask, strict=True)]
            total = [a + b for a, b in zip(total, x, strict=True)]
            mask = [bool(vector[0] > 0) for vector in x]
        return [a + b for a, b in zip(x, total, strict=True)]

    return fill, reference


def _naive_step(row, stage, at, n, x):
    for place, entry in enumerate(stage.step):
        if not isinstance(entry, str) and n not in runs_at(entry.at, stage.trips):
            continue
        step = naive._Step([(n, stage.trips, stage.tied)], row.memory, {}, at, at)
        x = row.sublayer(stage, entry, f"{at}.{place}", x, step)
    return x


@contextmanager
def lowered(fill, reference):
    """Let the first stage be what `fill` makes of it, and in `naive` what `reference` does."""
    plain, naively = lowering._stage, naive._Row.stage

    def stage(build, name, stage, spec, x, *collects):
        if name == "stages.0":
            return fill(build, name, stage, spec, x)
        return plain(build, name, stage, spec, x, *collects)

    def naive_stage(self, stage, path, x, loops, memory, place):
        if path != "stages.0":
            return naively(self, stage, path, x, loops, memory, place)
        self.memory, self.shares_first = {}, False
        return reference(self, stage, path, x)

    with patch.object(lowering, "_stage", stage), patch.object(naive._Row, "stage", naive_stage):
        yield
