"""Loops that hand out values at every step, and that carry several states and masks."""

from functools import partial

import pytest
from cases import DEPTH, FFN, SEQ, tree
from loop_proofs import (  # noqa: F401
    regions_compute_the_same,
    shaken,
    test_it_computes_what_the_equations_do,
    test_recomputing_costs_what_is_declared_and_changes_no_gradient,
    test_the_peak_is_the_predicted_one,
    test_what_is_saved_is_what_is_declared,
    test_what_runs_costs_what_is_declared,
)
from loops import Mix, Runs, collected, halting, lowered
from models import close, gradients, tokens_for
from strategies import make

from blocks.ir.operation import Init, Value, Weight
from composer.graph.compile import compile_graph
from composer.graph.lowering import build as lowering

BLOCKS = {"s": SEQ, "d": DEPTH, "f": FFN}
SOME = {"use": "s", "at": "1::2"}
STAGES = {
    "some steps": {"recur": 4, "step": [SOME, "f", {"use": "d", "at": "1:"}]},
    "some layers": {"stack": 3, "step": [SOME, "f"]},
    "recur": {"recur": 4, "step": ["s", "d", "f"]},
    "stack": {"stack": 3, "step": ["s", "f"]},
}
CASES = {
    **{
        f"{kind}, {what}": (stage, partial(collected, what))
        for kind, stage in STAGES.items()
        for what in ("state", "start", "inside")
    },
    "three states": (STAGES["recur"], halting),
}


@pytest.fixture(params=CASES)
def spec(request):
    stage, loop = CASES[request.param]
    used = {name: block for name, block in BLOCKS.items() if f"'{name}'" in str(stage["step"])}
    with lowered(*loop()):
        yield make(tree(used, stage, {"stack": 1, "step": ["f"]}))


@pytest.mark.slow
@pytest.mark.parametrize("loop", [partial(collected, "state"), halting])
def test_regions_and_hooks_compute_the_same(loop):
    with lowered(*loop()):
        spec = make(tree(BLOCKS, STAGES["recur"]))
        plain, watched = shaken(spec), shaken(spec)
        called = []
        watched.stages[0].step.register_forward_hook(lambda *_: called.append(1))
        tokens = tokens_for(spec)
        expected = gradients(plain, tokens)
        close(gradients(watched, tokens), expected, 1e-4)
        assert len(called) == 4
        regions_compute_the_same(spec, tokens, expected)


def first_stage(fill):
    """Compile a spec whose first stage is lowered by `fill`."""
    with lowered(fill, None):
        return compile_graph(make(tree({"f": FFN}, {"recur": 3, "step": ["f"]})))


def test_what_nothing_reads_is_not_collected():
    def fill(build, name, message, spec, x):
        def step(body, x):
            y = lowering._step(message, lowering.stage_options(spec.model, message), spec, body, x)
            body.collect(body.norm(y, "unread", (body.width,)))
            body.collect(y)
            return [y]

        loop = build.loop(name, message.trips, message.tied, [x], step)
        weight = Weight("mixed", (3,), Init("constant", 1.0))
        return build.op("mixed", Mix(build.width, 3), loop.collected[1], weights=[weight])

    graph = first_stage(fill)
    body = graph.loop("stages.0").body
    assert len(body.outputs) == 2
    assert "unread" not in body.weights
    assert graph.node("mixed").inputs == (Value("stages.0", 1),)
    assert len(graph.node("stages.0").types) == 2


def test_a_state_keeps_its_type():
    def fill(build, name, message, spec, x):
        step = lambda body, x: [body.op("runs", Runs(body.width), x)]  # noqa: E731
        return build.loop(name, message.trips, message.tied, [x], step).states[0]

    with pytest.raises(ValueError, match="a step returns 1 bool where it is given 10 stream"):
        first_stage(fill)
