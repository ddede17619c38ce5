"""Costs where training runs other numbers of steps than evaluation: expectations, and the largest number."""

import json
from itertools import product

import pytest
from cases import DEPTH, EXPERT, FFN, SEQ, tree
from samples import FULL
from strategies import make

from composer.costs.counting.plan import count, make_plan
from composer.costs.fitting.caps import check_caps
from composer.costs.fitting.fit import fit
from composer.costs.matching.arms import arms
from composer.costs.tracing.traced_cost import Coster, measures
from composer.language.description.diff import differences
from composer.language.description.show import changed_yaml, document, resolved_yaml
from composer.language.load import loads
from composer.language.schema.steps import step_mix, with_steps
from composer.settings.errors import SpecError

BLOCKS = {"s": SEQ, "d": DEPTH, "f": FFN}
TRAIN = {"data": {"task": "hop", "length": 32, "symbols": 4}, "tokens": 3200, "batch_tokens": 320}


def recurrent(train, steps=4, step=("s", "d", "f"), **rest):
    return {"recur": {"steps": steps, "train": train}, "step": [*step], **rest}


def spec(*stages, blocks=BLOCKS, **rest):
    plain = tree(blocks, *stages)
    plain["model"] = {**plain["model"], "vocab": 300, "context": 32}
    return make({**plain, "train": TRAIN, **rest})


INNER = {"recur": {"steps": 2, "train": {"uniform": [2, 3]}}, "step": ["d", "f"]}
CASES = {
    "uniform": (recurrent({"uniform": [2, 6]}),),
    "poisson_lognormal": (recurrent({"poisson_lognormal": {"mean": 3, "max": 7}}),),
    "late": (recurrent({"at": 0.25}),),
    "late, shorter than evaluation": (recurrent({"uniform": [1, 2]}),),
    "two stages": (recurrent({"uniform": [1, 3]}), recurrent({"at": 0.5, "from": 2})),
    "nested": (recurrent({"uniform": [1, 2]}, step=("s", INNER)),),
    "scaled by the steps": (recurrent({"uniform": [1, 4]}, residual={"scale": "1/steps"}),),
}


@pytest.mark.parametrize("name", CASES)
def test_costs_are_those_of_models_with_each_number(name):
    made = spec(*CASES[name])
    costs = count(made)
    built = {}
    for share, numbers in step_mix(made):
        one = count(with_steps(made, numbers))
        before = built.get(tuple(numbers.values()), (0, one))[0]
        built[tuple(numbers.values())] = before + share, one
    assert sum(share for share, _ in built.values()) == pytest.approx(1)
    expected = sum(share * one.train_flops for share, one in built.values())
    assert costs.train_flops == pytest.approx(expected, abs=1)
    assert costs.train_memory.total == max(one.train_memory.total for _, one in built.values())
    fixed = count(with_steps(made, {place: _steps(made, place) for place in costs.trained_steps}))
    assert costs.flops_per_token == fixed.flops_per_token
    assert costs.cache_bytes_per_token == fixed.cache_bytes_per_token
    slots = [fixed.depth_cache_bytes, *(one.depth_cache_bytes for _, one in built.values())]
    assert costs.depth_cache_bytes == max(slots)
    assert costs.params == fixed.params


def _steps(result, place):
    _, first, *inner = place.split(".")
    stage = result.stages[int(first)]
    for n in inner:
        stage = stage.step[int(n)]
    return stage.trips


def test_the_expectation_is_of_the_cost():
    built = spec(recurrent({"uniform": [1, 7]}))
    assert count(built).trained_steps["stages.0"].expected == pytest.approx(4)
    assert count(built).train_flops > count(with_steps(built, {"stages.0": 4})).train_flops


def test_what_is_recomputed_is_chosen_for_the_largest_number():
    built = spec(recurrent({"uniform": [2, 6]}))
    limit = int(0.8 * count(built).train_memory.total)
    capped = spec(recurrent({"uniform": [2, 6]}), caps={"train_memory": limit})
    longest = spec({"recur": 6, "step": ["s", "d", "f"]}, caps={"train_memory": limit})
    assert make_plan(capped).recomputed == make_plan(longest).recomputed != ()
    costs = count(capped)
    assert costs.train_memory.total == count(longest).train_memory.total <= limit
    marks = make_plan(capped).recomputed
    again = [
        make_plan(with_steps(built, {"stages.0": n}), recompute=marks).costs.recompute_flops
        for n in range(2, 7)
    ]
    assert costs.recompute_flops == pytest.approx(sum(again) / 5, abs=1)
    assert "recomputed in the backward pass" in make_plan(capped).text


def test_time_is_an_expectation():
    caps = {"step_time": {"device": "h100"}}
    built = spec(recurrent({"uniform": [1, 3]}), caps=caps)
    each = [count(with_steps(built, {"stages.0": n})).step_time for n in (1, 2, 3)]
    assert count(built).step_time == pytest.approx(sum(each) / 3)


def test_a_cap_says_which_number_it_holds():
    train = {"uniform": [2, 6]}
    over = {
        "train_flops": "in the mean over the steps of training",
        "train_memory": "at the most steps of training",
    }
    for cap, words in over.items():
        with pytest.raises(SpecError, match=words):
            check_caps(spec(recurrent(train), caps={cap: 1000}))


# each two numbers change with and without each other
SIZES = [*product((8, 16), (8, 24), (4, 5))] if FULL else [(8, 8, 4), (8, 24, 5), (16, 8, 5), (16, 24, 4)]


def test_fast_costs_are_the_counted_ones():
    names = ("params", "flops_per_token", "train_flops", "train_memory", "depth_cache_bytes")
    for name in ("uniform", "two stages", "poisson_lognormal"):
        coster, counted = Coster(names), []
        tried = 0

        def slow(other):
            nonlocal tried
            tried += 1
            return count(other)

        for width, hidden, steps in SIZES:
            stages = [{**stage, "recur": {**stage["recur"], "steps": steps}} for stage in CASES[name]]
            blocks = {**BLOCKS, "f": {**FFN, "hidden": hidden}}
            built = spec(*stages, blocks=blocks)
            plain = document(built)
            plain["model"] = {**plain["model"], "width": width}
            costs = coster(plain)
            assert costs == measures(count(make(json.loads(json.dumps(plain)))), names)
            counted.append(costs["train_flops"])
        assert len({*counted}) >= 4
        (known,) = coster._known.values()
        assert known, "costs were not traced"
        assert len(known) <= 2


def test_they_can_be_fitted_and_arms_have_the_steps_of_evaluation():
    train = {"uniform": [2, 6]}
    limit = int(0.9 * count(spec(recurrent(train))).train_flops)
    fitted = fit(spec(recurrent(train), caps={"train_flops": limit}))
    assert count(fitted.spec).train_flops <= limit
    untied = {arm.name: arm for arm in arms(spec(recurrent(train)))}["untied"]
    assert sum(stage.trips for stage in untied.match.spec.stages) == spec(recurrent(train)).stages[0].trips


def test_numbers_that_a_stage_cannot_run_are_refused():
    blocks = {"s": SEQ, "e": {**EXPERT, "depth_code": "bias"}}
    with pytest.raises(SpecError, match=r"stages.0 with 2 \(.*it has weights for each step"):
        make_plan(spec(recurrent({"uniform": [2, 6]}, step=("s", "e")), blocks=blocks))


def test_a_stack_of_many_layers_beside_such_a_stage_is_checked_as_a_whole():
    deep = 500_000
    stages = {"stack": deep, "step": ["f"]}, recurrent({"uniform": [2, 3]}, step=("f",))
    built = spec(*stages, blocks={"f": FFN})
    assert count(built).params > deep * 100


def test_it_is_written_out_and_told():
    built = spec(recurrent({"uniform": [2, 6]}))
    for text in (resolved_yaml(built), changed_yaml(built)):
        assert loads(text) == built
    other = spec({"recur": 4, "step": ["s", "d", "f"]})
    assert "recur.train fixed -> {uniform: [2, 6]}" in " ".join(map(str, differences(other, built)))
