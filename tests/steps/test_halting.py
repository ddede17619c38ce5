"""Adaptive computation time, held to the listing of the paper in `naive_state`."""

import naive
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
from composer.module.model import ComposedModel
from composer.settings.errors import SpecError

BLOCKS = {"s": SEQ, "d": DEPTH, "f": FFN}
ACT = {"act": 0.1, "threshold": 0.8}


def spec_of(*stages, **model):
    blocks = {name: block for name, block in BLOCKS.items() if f"'{name}'" in str(stages)}
    plain = tree(blocks, *stages)
    plain["model"] |= model
    return make(plain)


def halting(steps=4, step=("s", "f"), **rest):
    return {"recur": steps, "step": [*step], "halt": ACT} | rest


CASES = {
    "slots": (halting(step=("s", "d", "f")), {"stack": 1, "step": ["f"]}),
    "post norm, codes": (halting(norm="post", step_code="sinusoidal"),),
    "nested": ({"recur": 2, "step": ["s", halting(3, ("d", "f"))]},),
    "truncated": (halting(3, inject="concat", backprop={"last": 2}, halt={"act": 0.1, "threshold": 0.999}),),
}


@pytest.fixture(params=CASES)
def spec(request):
    return spec_of(*CASES[request.param])


def test_the_ponder_cost_is_that_of_the_listing():
    spec = spec_of(halting(norm="post"), {"recur": 2, "step": ["f", halting(3, ("s",))]})
    model = compiled(spec, "reference").double()
    tokens = tokens_for(spec)
    weights = {name: tensor.detach().clone().requires_grad_() for name, tensor in model.named_parameters()}
    rows = [naive._Row(spec, weights) for _ in tokens]
    logits = torch.stack([row.logits(each.tolist()) for row, each in zip(rows, tokens, strict=True)])
    # a mean over tokens at each pass through a stage that halts
    passes = zip(*(row.ponder for row in rows), strict=True)
    ponder = sum(torch.stack([cost for row in each for cost in row]).mean() for each in passes)
    steps = {round(cost.item()) for row in rows for each in row.ponder for cost in each}
    assert len(steps) > 1, "all tokens halt at one step"
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()) + 0.1 * ponder
    expected.backward()
    loss, reported = model._losses(tokens, tokens)
    loss.backward()
    close(
        {"loss": loss, **reported},
        {
            "loss": expected,
            "cross_entropy": expected - 0.1 * ponder,
            "ponder_cost": 0.1 * ponder,
        },
        1e-6,
    )
    by_name = {name: parameter.grad for name, parameter in model.named_parameters()}
    close(by_name, {name: weight.grad for name, weight in weights.items()}, 1e-5)


def test_a_step_moves_what_is_returned_by_its_weight_only():
    model = compiled(spec_of(halting(norm="post"))).eval()
    tokens = tokens_for(model.spec)
    with torch.no_grad():
        model.stages[0].step.halt.zero_()
        model.stages[0].step.halt_bias.fill_(9.0)  # halts at once
        once, more = model(tokens), model(tokens, steps=7)
        assert torch.equal(once, more)
        model.stages[0].step.halt_bias.fill_(-9.0)
        assert not torch.allclose(model(tokens), model(tokens, steps=7))


def test_other_numbers_of_steps_are_those_of_a_model_built_with_them():
    trained = halting({"steps": 3, "train": {"uniform": [2, 4]}})
    check_other_steps(spec_of(trained), spec_of(halting(4)), {"stages.0": 4})


def test_it_runs_in_lower_precision():
    model = compiled(spec_of(halting(norm="post")))
    tokens = tokens_for(model.spec)
    expected = gradients(model, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        grads = gradients(model, tokens)
    assert all(gradient.isfinite().all() for gradient in grads.values())
    assert grads.keys() == expected.keys()


def test_its_weights_are_counted_once():
    spec = spec_of(halting())
    plain = spec_of({"recur": 4, "step": ["s", "f"]})
    assert count(spec).params == count(plain).params + spec.model.width + 1
    assert count(spec).params == sum(each.numel() for each in ComposedModel(spec).parameters())


@pytest.mark.parametrize(
    ("stages", "model", "words"),
    [
        ([{"stack": 2, "step": ["f"], "halt": ACT}], {}, "stages.0.halt: expected none, unless the stage"),
        ([halting(1)], {}, "stages.0.halt: expected none, unless the stage has recur: 2 or more"),
        ([halting()], {"loss": {"steps": "uniform"}}, "halt: act, which changes that state"),
        ([halting(residual={"streams": 2})], {}, "expected 1 beside halt: act"),
        ([halting(residual={"streams": 2, "per": "step"})], {}, "expected none beside residual: streams"),
        ([halting() | {"halt": {"act": 0}}], {}, "stages.0.halt.act: expected a number above 0"),
        ([halting() | {"halt": {"act": 1, "threshold": 1}}], {}, "stages.0.halt.threshold: expected"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(stages, model, words):
    with pytest.raises(SpecError) as error:
        spec_of(*stages, **model)
    assert words in str(error.value)
