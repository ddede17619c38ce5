"""A model runs for other numbers of steps than it was trained with."""

import pytest
import torch
from cases import DEPTH, EXPERT, FFN, SEQ, tree
from models import check_other_steps, compiled, tokens_for
from strategies import make

from composer.module.model import ComposedModel

BLOCKS = {"s": SEQ, "d": DEPTH, "f": FFN}


def spec(steps, inner=2, block="f", other=FFN, at=None):
    seq, depth = ({"use": "s", "at": "::2"}, {"use": "d", "at": "-1:"}) if at else ("s", "d")
    inside = {"recur": inner, "step": [depth, block]}
    blocks = {**BLOCKS, block: other}
    return make(tree(blocks, {"recur": steps, "step": [seq, inside, "f"]}, {"stack": 2, "step": ["f"]}))


@pytest.mark.parametrize(("steps", "inner"), [(1, 2), (7, 1), (2, 5)])
@pytest.mark.parametrize("at", [False, True])
def test_it_computes_what_a_model_of_as_many_steps_does(steps, inner, at):
    trained, built = spec(3, at=at), spec(steps, inner, at=at)
    model = check_other_steps(trained, built, {"stages.0": steps, "stages.0.1": inner})
    tokens, result = tokens_for(trained), compiled(built, shaken=None)
    result.load_state_dict(model.state_dict())
    hook = model.stages[0].register_forward_hook(lambda *_: None)
    assert torch.allclose(model(tokens), result(tokens), atol=1e-5)
    hook.remove()
    model.set_steps({})
    assert torch.equal(model(tokens), compiled(trained)(tokens))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"stages.0": 0}, "stages.0: expected at least 1 step, got 0"),
        ({"stages.1": 3}, "stages.1: expected a recurrent stage, got a stack"),
        ({"stages.7": 3}, "expected the place of a stage, such as stages.0, got stages.7"),
    ],
)
def test_what_cannot_be_run_is_refused(steps, message):
    model = ComposedModel(spec(3))
    with pytest.raises(ValueError, match=message):
        model.set_steps(steps)
    assert model.plan.spec is model.spec


def test_weights_of_each_step_fix_their_number():
    model = ComposedModel(spec(3, block="e", other={**EXPERT, "depth_code": "bias"}))
    with pytest.raises(ValueError, match="for each step"):
        model.set_steps({"stages.0.1": 4})


def test_training_runs_the_steps_of_the_spec():
    data = {"task": "hop", "length": 24, "symbols": 3, "hops": 1}
    plain = tree({"f": FFN}, {"recur": 2, "step": ["f"]})
    train = {"data": data, "tokens": 800, "batch_tokens": 240}
    model = ComposedModel(make({**plain, "model": {**plain["model"], "context": 32}, "train": train}))
    model.set_steps({"stages.0": 3})
    with pytest.raises(ValueError, match=r"call set_steps\(\{\}\) before"):
        model.on_fit_start()
