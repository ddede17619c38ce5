"""Truncated backpropagation: gradients through the last steps only, held to the equations in `naive`."""

import pytest
import torch
from cases import DEPTH, FFN, SEQ, tree
from loop_proofs import (  # noqa: F401
    test_it_computes_what_the_equations_do,
    test_recomputing_costs_what_is_declared_and_changes_no_gradient,
    test_the_peak_is_the_predicted_one,
    test_what_is_saved_is_what_is_declared,
    test_what_runs_costs_what_is_declared,
)
from models import check_other_steps, close, compiled, gradients, tokens_for
from strategies import make

from composer.costs.counting.plan import count
from composer.language.schema.steps import with_steps
from composer.settings.errors import SpecError

BLOCKS = {"s": SEQ, "d": DEPTH, "f": FFN}


def recurrent(last, steps=5, step=("s", "d", "f"), **rest):
    backprop = {"backprop": {"last": last}} if last else {}
    return {"recur": steps, "step": [*step], "inject": "concat", **backprop, **rest}


def spec_of(*stages, **rest):
    blocks = {name: block for name, block in BLOCKS.items() if f"'{name}'" in str(stages)}
    return make({**tree(blocks, *stages), **rest})


OUTER = {"recur": 3, "step": ["s", recurrent(2, 4, ("d", "f"))]}
CASES = {
    "slots": (recurrent(2),),
    "no norm": (recurrent(1, 3, norm="none", step=("f",), inject="add"), {"stack": 1, "step": ["f"]}),
    "noise": (recurrent(2, 3, start="noise", step=("f",)), recurrent(1, 3, ("f",), norm="sandwich")),
    "nested": (recurrent(2, 3, (recurrent(1, 3, ("d",)), {"use": "s", "at": "::2"})),),
    "inside": (OUTER,),
    "streams": (recurrent(1, 3, residual={"streams": 2, "per": "step"}),),
}


@pytest.fixture(params=CASES)
def spec(request):
    return spec_of(*CASES[request.param])


def test_other_numbers_of_steps_keep_the_last_ones():
    trained = recurrent(2, {"steps": 3, "train": {"uniform": [1, 4]}})
    check_other_steps(spec_of(trained), spec_of(recurrent(2, 4)), {"stages.0": 4})
    costs = count(spec_of(trained))
    assert costs.trained_steps["stages.0"].most == 4


def test_more_steps_than_run_are_all_steps():
    step = ("s", "f")
    short, whole = compiled(spec_of(recurrent(5, step=step))), compiled(spec_of(recurrent(None, step=step)))
    whole.load_state_dict(short.state_dict())
    tokens = tokens_for(short.spec)
    expected = gradients(whole, tokens)
    assert all(torch.equal(got, expected[name]) for name, got in gradients(short, tokens).items())
    assert count(short.spec).to_dict() == count(whole.spec).to_dict()
    more = with_steps(short.spec, {"stages.0": 7})
    assert count(more).flops_per_token.backward == count(short.spec).flops_per_token.backward
    assert count(more).flops_per_token.forward > count(short.spec).flops_per_token.forward


def test_casts_of_steps_without_gradients_take_none_from_later_steps():
    model = compiled(spec_of(recurrent(1, 3, ("f",))))
    tokens = tokens_for(model.spec)
    expected = gradients(model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        close(gradients(model, tokens), expected, 0.1)


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ([recurrent(1, inject="none")], "all beside inject: none"),
        ([recurrent(1, start="learned")], "all beside start: learned"),
        ([{"stack": 3, "step": ["f"], "backprop": {"last": 1}}], "all in a stack"),
        ([recurrent(0) | {"backprop": {"last": 0}}], "stages.0.backprop.last: expected"),
    ],
)
def test_what_would_not_be_trained_is_refused(stages, words):
    with pytest.raises(SpecError) as error:
        spec_of(*stages)
    assert words in str(error.value)


def test_a_loss_that_reads_every_step_is_refused():
    plain = tree({"f": FFN}, recurrent(1, step=("f",)))
    plain["model"]["loss"] = {"steps": "uniform"}
    with pytest.raises(SpecError, match="all beside loss: steps, which reads every step"):
        make(plain)


def test_beside_a_slot_of_the_input_it_is_refused_since_its_weights_would_not_be_trained():
    with pytest.raises(SpecError, match="all beside d, whose slot of the input would not be trained"):
        make({**tree({"d": {**DEPTH, "input": True}}, recurrent(2, step=["d"]))})
