"""Sublayers and stages active at some steps only: specs cannot say it yet, so their lowering is patched."""

import re
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import naive

from composer.graph.lowering import build as lowering


@contextmanager
def active_at(steps):
    """Let what stands at some places run at some steps of the stage around it, here and in `naive`.

    `steps` maps places, such as `0.1` for the second entry of the first stage, to `Steps`.
    """

    def runs(build, name):
        loop = build._loop[0].removeprefix("n").replace("_", ".") if build._loop else ""
        place = f"{loop}.{name}"
        return build.active(steps[place]) if place in steps else nullcontext()

    def lowered_stage(build, name, *rest):
        with runs(build, name):
            return plain_stage(build, name, *rest)

    def wrapped(hook, stage, build, *rest):
        with runs(build, build.prefix.rstrip(".")) if hook == "around_sublayer" else nullcontext():
            return plain_wrapped(hook, stage, build, *rest)

    def skips(path, loop):
        place = re.sub(r"\.(step|layers\.\d+)(?=\.|$)", "", path.removeprefix("stages."))
        return place in steps and loop[0] not in steps[place].among(loop[1])

    plain_stage, plain_wrapped = lowering._stage, lowering._wrapped
    sublayer, stage = naive._Row.sublayer, naive._Row.stage

    def naive_sublayer(self, told, entry, at, x, step):
        return x if skips(at, step.loops[-1]) else sublayer(self, told, entry, at, x, step)

    def naive_stage(self, told, path, x, loops, memory):
        return x if loops and skips(path, loops[-1]) else stage(self, told, path, x, loops, memory)

    with (
        patch.object(lowering, "_wrapped", wrapped),
        patch.object(lowering, "_stage", lowered_stage),
        patch.object(naive._Row, "sublayer", naive_sublayer),
        patch.object(naive._Row, "stage", naive_stage),
    ):
        yield
