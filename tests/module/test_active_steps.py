"""What is active at some steps of a tied loop: what it computes, its gradients, and what it costs."""

import copy
import re
from collections import Counter

import pytest
import torch
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
from references import equal_to_the_equations
from strategies import make

from composer.costs.counting.checkpoint import checkpoint_size
from composer.costs.counting.plan import count
from composer.costs.time.devices import device
from composer.costs.time.roofline import step_time
from composer.language.schema.identity import arch_hash
from composer.module.emission.stage import source
from composer.module.model import ComposedModel
from composer.settings.errors import SpecError

BLOCKS = {"s": SEQ, "d": DEPTH, "x": {**DEPTH, "span": "exclusive"}, "f": FFN, "e": EXPERT}


def at(steps, block):
    return {"use": block, "at": steps}


CASES = {
    "every second step": [{"recur": 5, "step": [at("::2", "s"), "f"]}],
    "the last steps": [{"recur": 4, "step": ["s", at("-2:", "f")]}],
    "depth attention": [{"recur": 5, "step": ["s", at("1::2", "d"), "f"]}],
    "everything, and nothing at step 3": [
        {"recur": 6, "step": [at(":1", "s"), at("1:3", "x"), at("4:", "e")]}
    ],
    "injection where all else is skipped": [{"recur": 3, "step": [at("::2", "s")], "inject": "add"}],
    "a nested stage": [
        {"recur": 4, "step": [at("::2", "d"), {"stack": 2, "step": ["d", "f"], "at": "::3"}, at("1:", "s")]}
    ],
    "in a nested stage": [
        {"recur": 2, "step": ["s", {"recur": 3, "step": [at("::2", "d"), at("1:", "f")]}]},
    ],
    "in both of two nested stages": [
        {
            "recur": 3,
            "step": [at("1:", "x"), {"recur": 3, "step": [at(":2", "x"), at("2:", "f")], "at": "::2"}],
        }
    ],
    "two stages": [
        {"recur": 3, "step": [at("::2", "s"), "d"]},
        {"recur": 4, "step": ["d", at(":-1", "f")]},
    ],
    "post norm": [{"recur": 3, "step": [at("1:", "s"), at(":2", "f")], "norm": "post"}],
    "options of an entry": [
        {
            "recur": 3,
            "step": ["f", {"use": "s", "at": "1:", "norm": "sandwich", "residual": {"scale": 0.5}}],
        }
    ],
    "a stack": [{"stack": 5, "step": [at("::2", "s"), at("1::2", "e"), "f", at("1:", "d")]}],
    "depth attention in a stack": [
        {"stack": 4, "step": [at("1:", "d"), "f", {"use": "f", "at": "1::2", "norm": "post"}]},
        {"recur": 2, "step": ["f"]},
    ],
    "a stage in some layers of a stack": [
        {"stack": 4, "step": [at(":2", "d"), {"stack": 2, "step": ["d", at("1:", "f")], "at": "1:"}]}
    ],
    "a stack in a loop": [
        {"recur": 2, "step": ["s", {"stack": 3, "step": [at("1:", "d"), "f"]}, at("1:", "f")]},
    ],
    "a stack in a loop, at some steps": [
        {"recur": 3, "step": [{"stack": 3, "step": [at("::2", "f"), at(":2", "s")], "at": "1:"}, "f"]},
    ],
    "parallel": [{"recur": 3, "step": [{"parallel": ["s", "d", "f"], "combine": "gate", "at": "1:"}, "f"]}],
}


def made(*stages):
    used = {name: block for name, block in BLOCKS.items() if f"'{name}'" in str(stages)}
    return make(tree(used, *stages))


@pytest.fixture(params=CASES)
def spec(request):
    return made(*CASES[request.param])


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
    spec = made(*CASES[case])
    tokens = tokens_for(spec)
    regions_compute_the_same(spec, tokens, gradients(shaken(spec), tokens))


def test_the_code_of_each_kind_of_step_is_printed():
    model = ComposedModel(made({"recur": 5, "step": ["f", at("::2", "d")]}))
    names = [name for name, _ in source(model)]
    assert names == ["stages.0 steps 0, 2, 4", "stages.0 steps 1, 3", "model", "loss"]
    code = dict(source(model))
    assert "slot = _bisect_bisect_left(range(0, 5, 2), n0)" in code["stages.0 steps 0, 2, 4"]
    assert "d_append =" not in code["stages.0 steps 1, 3"]


def test_layers_have_weights_for_what_they_run():
    model = ComposedModel(made({"stack": 3, "step": ["f", {"parallel": ["s", "d"], "at": "1:"}]}))
    held = [*model.state_dict()]
    layers = [
        {name.split(".")[4] for name in held if name.startswith(f"stages.0.layers.{n}.")} for n in range(3)
    ]
    assert layers == [{"0"}, {"0", "1"}, {"0", "1"}]
    assert [*map(len, (layer._modules for layer in model.stages[0].layers))] == [1, 2, 2]
    assert count(model.spec).params == sum(parameter.numel() for parameter in model.parameters())
    assert checkpoint_size(model.spec).resume_tensors == 12 * count(model.spec).params + 4 * len(
        [*model.parameters()]
    )


def test_the_number_of_steps_decides_which_run():
    for trips, steps in ((2, "1"), (4, "3")):
        spec = made({"recur": trips, "step": ["f", at("-1:", "d")]})
        names = [name for name, _ in source(ComposedModel(spec))]
        rows = {row.place: row.executions for row in count(spec).by_operation}
        assert f"stages.0 steps {steps}" in names
        assert (rows["stages.0.1.d.attend"], rows["stages.0.0.norm"]) == (1, trips)


@pytest.mark.parametrize(
    ("stage", "fault"),
    [
        (
            {"recur": 3, "step": ["f", at("3:", "f")]},
            "stages.0.step.1.at: expected some of the 3 steps of the stage, got '3:'",
        ),
        (
            {"recur": 1, "step": ["f", {"parallel": ["f", "f"], "at": "1::2"}]},
            "stages.0.step.1.at: expected the only step of the stage, got '1::2'",
        ),
        (
            {"recur": 3, "step": ["f"], "at": "1:"},
            "stages.0.at: expected no such key, since at: selects steps of a surrounding",
        ),
        ({"recur": 3, "step": [{"use": "f", "at": 2}]}, "stages.0.step.0.at: expected a slice of steps"),
        ({"recur": 3, "step": [{"use": "f", "at": "::0"}]}, "stages.0.step.0.at: expected a slice of steps"),
        (
            {"recur": 3, "step": [at("1:", "d"), "d"]},
            "stages.0.step.0.at: expected all steps, as at the other places in this step that use d",
        ),
    ],
)
def test_steps_that_cannot_be_are_refused(stage, fault):
    with pytest.raises(SpecError, match=re.escape(fault)):
        count(made(stage))


def test_what_reads_every_sublayer_is_refused_where_some_are_skipped():
    stage = {"recur": 3, "step": ["f", at("1:", "s")], "residual": {"mix": "static"}}
    with pytest.raises(SpecError, match=r"stages\.0\.step\.1\.at: expected all steps beside residual: mix"):
        made(stage)


def test_a_stage_with_a_start_of_its_own_is_skipped_as_a_whole():
    inner = {"recur": 2, "step": ["f"], "start": "zeros", "inject": "concat", "at": "1:"}
    equal_to_the_equations(shaken(made({"recur": 3, "step": [inner, "s"]})))


def test_a_slice_is_written_in_one_way():
    hashes = {arch_hash(made({"recur": 4, "step": ["f", at(each, "s")]})) for each in ("::2", "0::2")}
    every = {arch_hash(made({"recur": 4, "step": ["f", at(each, "s")]})) for each in (":", "::1", None)}
    assert len(hashes) == len(every) == 1
    assert hashes != every


def test_other_numbers_of_steps_run_others_and_none_at_all_is_refused():
    model = shaken(made({"recur": 4, "step": ["f", at("2:", "s")]}))
    tokens = tokens_for(model.spec)
    other = shaken(made({"recur": 6, "step": ["f", at("2:", "s")]}))
    other.load_state_dict(model.state_dict())
    model.set_steps({"stages.0": 6})
    assert torch.equal(model(tokens), other(tokens))
    with pytest.raises(ValueError, match=r"stages\.0\.1: 2: selects none of 2 steps"):
        model.set_steps({"stages.0": 2})


def test_the_model_is_copied_and_pickled_with_its_code():
    model = shaken(made({"recur": 5, "step": ["f", at("::2", "d")]}))
    tokens = tokens_for(model.spec)
    assert torch.equal(copy.deepcopy(model)(tokens), model(tokens))
