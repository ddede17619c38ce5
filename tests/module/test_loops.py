"""Loops that hand out values at every step, and that carry several states and masks."""

import warnings
from functools import partial
from unittest.mock import patch

import pytest
import torch
from cases import DEPTH, FFN, SEQ, tree
from flops import counted, declared
from loops import Mix, Runs, collected, halting, lowered
from models import close, gradients, shake, tokens_for
from references import equal_to_the_equations
from storages import alive
from storages import counted as ran
from strategies import make

from blocks.ir.operation import Init, Value, Weight
from blocks.ir.steps import Steps
from composer.costs.base.precision import BF16, FULL
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.costs.memory.recompute import recompute_flops
from composer.costs.memory.saved_tensors import saved_per_token
from composer.graph.compile import compile_graph
from composer.graph.lowering import build as lowering
from composer.graph.passes.mark_recompute import recomputable
from composer.module.emission import regions
from composer.module.model import ComposedModel
from composer.testing.memory import measured

BLOCKS = {"s": SEQ, "d": DEPTH, "f": FFN}
STAGES = {
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
    used = {name: block for name, block in BLOCKS.items() if name in stage["step"]}
    with lowered(*loop()):
        yield make(tree(used, stage, {"stack": 1, "step": ["f"]}))


def shaken(spec, chosen=(), **settings):
    model = ComposedModel(spec, recompute=chosen, **settings)
    shake(model)
    return model


def everything(spec):
    return list(recomputable(compile_graph(spec)))


def test_it_computes_what_the_equations_do(spec):
    equal_to_the_equations(shaken(spec))


def test_what_runs_costs_what_is_declared(spec):
    assert declared(spec) == counted(spec)


@pytest.mark.parametrize("again", [False, True])
def test_what_is_saved_is_what_is_declared(spec, again):
    model = shaken(spec, everything(spec) if again else ())
    length = spec.model.context
    found = (alive(model, 5) - alive(model, 2)) / (3 * length)
    assert saved_per_token(model.graph, length, FULL) == pytest.approx(found, rel=1e-12)


@pytest.mark.parametrize("again", [False, True])
def test_the_peak_is_the_predicted_one(spec, again):
    large = spec.model.model_copy(update={"context": 256, "vocab": 64})
    spec = spec.model_copy(update={"model": large})
    chosen = everything(spec) if again else ()
    predicted = Memory(compile_graph(spec, recompute=chosen), Batch(16 * 256, 256, BF16)).total
    assert predicted == pytest.approx(measured(spec, 16, recompute=chosen), rel=0.02 if again else 1e-4)


def test_recomputing_costs_what_is_declared_and_changes_no_gradient(spec):
    plain, again = shaken(spec), shaken(spec, everything(spec))
    tokens = tokens_for(spec)
    expected = gradients(plain, tokens)
    assert all(torch.equal(found, expected[name]) for name, found in gradients(again, tokens).items())
    declared = recompute_flops(again.graph, spec.model.context, full_mask=True)
    assert declared * 2 * spec.model.context == pytest.approx(ran(again) - ran(plain), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("loop", [partial(collected, "state"), halting])
def test_regions_and_hooks_compute_the_same(loop):
    with lowered(*loop()):
        spec = make(tree(BLOCKS, STAGES["recur"]))
        plain, compiled, watched = shaken(spec), shaken(spec, torch_compile="on"), shaken(spec)
        called = []
        watched.stages[0].step.register_forward_hook(lambda *_: called.append(1))
        tokens = tokens_for(spec)
        expected = gradients(plain, tokens)
        close(gradients(watched, tokens), expected, 1e-4)
        assert len(called) == 4
        torch._dynamo.reset()
        eager = partial(torch.compile, backend="eager")
        with patch.object(regions.torch, "compile", eager), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dynamo warns of its own ways
            close(gradients(compiled, tokens), expected)


def first_stage(fill):
    """Compile a spec whose first stage is lowered by `fill`."""
    with lowered(fill, None):
        return compile_graph(make(tree({"f": FFN}, {"recur": 3, "step": ["f"]})))


def test_what_nothing_reads_is_not_collected():
    def fill(build, name, told, blocks, x):
        def step(body, x):
            y = lowering._step(told, blocks, body, x)
            body.collect(body.norm(y, "unread", (body.width,)))
            body.collect(y)
            return [y]

        loop = build.loop(name, told.trips, told.tied, [x], step)
        weight = Weight("mixed", (3,), Init("constant", 1.0))
        return build.op("mixed", Mix(build.width, 3), loop.collected[1], weights=[weight])

    graph = first_stage(fill)
    body = graph.loop("stages.0").body
    assert len(body.outputs) == 2
    assert "unread" not in body.weights
    assert graph.node("mixed").inputs == (Value("stages.0", 1),)
    assert len(graph.node("stages.0").types) == 2


def test_values_cannot_be_collected_where_operations_skip_steps():
    def fill(build, name, told, blocks, x):
        def step(body, x):
            body.collect(x)
            with body.active(Steps(1)):
                return [lowering._step(told, blocks, body, x)]

        return build.loop(name, told.trips, told.tied, [x], step).states[0]

    with pytest.raises(ValueError, match="values cannot be collected where operations skip steps"):
        first_stage(fill)


def test_a_state_keeps_its_type():
    def fill(build, name, told, blocks, x):
        step = lambda body, x: [body.op("runs", Runs(body.width), x)]  # noqa: E731
        return build.loop(name, told.trips, told.tied, [x], step).states[0]

    with pytest.raises(ValueError, match="a step returns 1 bool where it is given 10 stream"):
        first_stage(fill)
