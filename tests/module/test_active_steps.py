"""What is active at some steps of a tied loop: what it computes, its gradients, and what it costs."""

import copy
from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from active import active_at
from cases import DEPTH, EXPERT, FFN, SEQ, tree
from loop_proofs import (  # noqa: F401
    regions_compute_the_same,
    shaken,
    test_it_computes_what_the_equations_do,
    test_recomputing_costs_what_is_declared_and_changes_no_gradient,
    test_the_peak_is_the_predicted_one,
    test_what_is_saved_is_what_is_declared,
    test_what_runs_costs_what_is_declared,
)
from models import close, gradients, tokens_for
from strategies import make

from blocks.ir.steps import Steps
from composer.costs.counting.plan import count
from composer.costs.time.devices import device
from composer.costs.time.roofline import step_time
from composer.graph.compile import compile_graph
from composer.module.emission.stage import source
from composer.module.model import ComposedModel

BLOCKS = {"s": SEQ, "d": DEPTH, "x": {**DEPTH, "span": "exclusive"}, "f": FFN, "e": EXPERT}
CASES = {
    "every second step": ([{"recur": 5, "step": ["s", "f"]}], {"0.0": Steps(step=2)}),
    "the last steps": ([{"recur": 4, "step": ["s", "f"]}], {"0.1": Steps(start=-2)}),
    "depth attention": ([{"recur": 5, "step": ["s", "d", "f"]}], {"0.1": Steps(numbers=(1, 2, 4))}),
    "everything, and nothing at step 3": (
        [{"recur": 6, "step": ["s", "x", "e"]}],
        {"0.0": Steps(numbers=(0, 5)), "0.1": Steps(1, 3), "0.2": Steps(numbers=(0, 2, 4))},
    ),
    "injection where all else is skipped": (
        [{"recur": 3, "step": ["s"], "inject": "add"}],
        {"0.0": Steps(numbers=(0, 2))},
    ),
    "a nested stage": (
        [{"recur": 4, "step": ["d", {"stack": 2, "step": ["d", "f"]}, "s"]}],
        {"0.0": Steps(numbers=(0, 2)), "0.1": Steps(numbers=(0, 3)), "0.2": Steps(1)},
    ),
    "in a nested stage": (
        [{"recur": 2, "step": ["s", {"recur": 3, "step": ["d", "f"]}]}],
        {"0.1.0": Steps(step=2), "0.1.1": Steps(1)},
    ),
    "in both of two nested stages": (
        [{"recur": 3, "step": ["x", {"recur": 3, "step": ["x", "f"]}]}],
        {"0.0": Steps(1), "0.1": Steps(step=2), "0.1.0": Steps(stop=2), "0.1.1": Steps(2)},
    ),
    "two stages": (
        [{"recur": 3, "step": ["s", "d"]}, {"recur": 4, "step": ["d", "f"]}],
        {"0.0": Steps(step=2), "1.1": Steps(stop=-1)},
    ),
    "post norm": (
        [{"recur": 3, "step": ["s", "f"], "norm": "post"}],
        {"0.0": Steps(1), "0.1": Steps(stop=2)},
    ),
    "parallel": (
        [{"recur": 3, "step": [{"parallel": ["s", "d", "f"], "combine": "gate"}, "f"]}],
        {"0.0": Steps(1)},
    ),
}


@contextmanager
def patched(case):
    """A spec; what is active at which steps is patched in."""
    stages, steps = CASES[case]
    used = {name: block for name, block in BLOCKS.items() if f"'{name}'" in str(stages)}
    with active_at(steps):
        yield make(tree(used, *stages))


@pytest.fixture(params=CASES)
def spec(request):
    with patched(request.param) as made:
        yield made


def test_time_and_rows_count_the_steps_that_run(spec):
    costs = count(spec)
    model = shaken(spec)
    runs = Counter()
    for row in step_time(spec, model.graph, device("cpu")).rows:
        runs[row.place] += row.executions
    rows = {row.place: row.executions for row in costs.by_operation}
    assert {place: rows[place] for place in runs if place in rows} == {**runs}
    assert costs.params == sum(parameter.numel() for parameter in model.parameters())


def test_hooks_see_what_runs_and_change_nothing(spec):
    model = shaken(spec)
    tokens = tokens_for(spec)
    expected, plain = model(tokens), gradients(model, tokens)
    called = Counter()
    for name, module in model.named_modules():
        if name.count(".") > 2:
            module.register_forward_hook(lambda *_, name=name: called.update([name]))
    assert torch.allclose(model(tokens), expected, atol=1e-5)
    rows = {row.place: row.executions for row in count(spec).by_operation}
    for name in called:
        if (place := f"{name.replace('.step', '')}.norm") in rows:
            assert called[name] == rows[place]
    close(gradients(model, tokens), plain, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["every second step", "depth attention", "in a nested stage"])
def test_regions_compute_the_same(case):
    with patched(case) as spec:
        plain, compiled = shaken(spec), shaken(spec, torch_compile="on")
    tokens = tokens_for(spec)
    regions_compute_the_same(compiled, tokens, gradients(plain, tokens))


def test_the_code_of_each_kind_of_step_is_printed():
    with active_at({"0.1": Steps(step=2)}):
        model = ComposedModel(make(tree({"d": DEPTH, "f": FFN}, {"recur": 5, "step": ["f", "d"]})))
    names = [name for name, _ in source(model)]
    assert names == ["stages.0 steps 0, 2, 4", "stages.0 steps 1, 3", "model", "loss"]
    code = dict(source(model))
    assert "slot = _bisect_bisect_left(range(0, 5, 2), n0)" in code["stages.0 steps 0, 2, 4"]
    assert "d_append =" not in code["stages.0 steps 1, 3"]


def test_the_number_of_steps_decides_which_run():
    last = Steps(start=-1)
    for trips, steps in ((2, "1"), (4, "3")):
        with active_at({"0.1": last}):
            spec = make(tree({"d": DEPTH, "f": FFN}, {"recur": trips, "step": ["f", "d"]}))
            names = [name for name, _ in source(ComposedModel(spec))]
            rows = {row.place: row.executions for row in count(spec).by_operation}
        assert f"stages.0 steps {steps}" in names
        assert (rows["stages.0.1.d.attend"], rows["stages.0.0.norm"]) == (1, trips)


def test_weights_have_to_be_tied():
    with active_at({"0.0": Steps(1)}), pytest.raises(ValueError, match="tied"):
        compile_graph(make(tree({"f": FFN}, {"stack": 3, "step": ["f"]})))


def test_some_step_has_to_be_there():
    with active_at({"0.0": Steps(start=3)}), pytest.raises(ValueError, match="3 steps, got 3:"):
        compile_graph(make(tree({"f": FFN}, {"recur": 3, "step": ["f"]})))


def test_uses_that_share_a_depth_index_run_together():
    spec = make(tree({"d": DEPTH}, {"recur": 3, "step": ["d", "d"]}))
    with active_at({"0.0": Steps(1)}), pytest.raises(ValueError, match="block 'd' in a step must be active"):
        compile_graph(spec)


def test_the_model_is_copied_and_pickled_with_its_code():
    with active_at({"0.1": Steps(step=2)}):
        model = shaken(make(tree({"d": DEPTH, "f": FFN}, {"recur": 5, "step": ["f", "d"]})))
    tokens = tokens_for(model.spec)
    assert torch.equal(copy.deepcopy(model)(tokens), model(tokens))
