"""The loss of a long and a short pass: against two passes by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from cases import DEPTH, FFN, SEQ, tree
from models import close, compiled, tokens_for
from strategies import make

from composer.costs.counting.plan import count, make_plan
from composer.graph.passes.mark_recompute import recomputable
from composer.language.schema.steps import with_steps
from composer.module.model import ComposedModel
from composer.settings.errors import SpecError
from composer.testing.modes import begun, trained

BLOCKS = {"s": SEQ, "d": DEPTH, "f": FFN}
LOSS = {"consistency": 0.7, "short": 2, "weight": 0.3}
STAGE = {"recur": 4, "step": ["s", "d", "f"], "residual": {"scale": "1/steps"}}


def spec_of(loss, stage=STAGE, **model):
    plain = tree(BLOCKS, {"stack": 1, "step": ["f"]}, stage)
    plain["model"] |= {"loss": loss, "dropout": 0.1, **model}
    return plain


def targets_for(spec):
    targets = tokens_for(spec, 2, seed=1)
    return targets.masked_fill(torch.arange(targets.shape[1]) % 3 == 0, -100)


@pytest.mark.parametrize("vocab", [11, 3000])
def test_the_loss_is_that_of_two_passes_by_hand(vocab):
    model = compiled(spec_of(LOSS, vocab=vocab))
    tokens, targets = tokens_for(model.spec), targets_for(model.spec)
    weights = dict(model.named_parameters())
    made = []
    for steps in (4, 2):
        plain = compiled(with_steps(make(spec_of("last", vocab=vocab)), {"stages.1": steps}))
        logits = torch.func.functional_call(plain, weights, (tokens,))
        # the head is the embedding: its pseudo-inverse gives the normed state back
        state = logits @ torch.linalg.pinv(weights["embedding"]).mT
        made.append((F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100), state))
    (long, goal), (short, state) = made
    far = (state - goal.detach())[targets != -100].square().mean()
    loss, reported = model._losses(tokens, targets)
    close({"loss": loss}, {"loss": long + 0.3 * short + 0.7 * far})
    close(reported, {"long_loss": long, "short_loss": short, "consistency": far}, 1e-4)
    expected = torch.autograd.grad(long + 0.3 * short + 0.7 * far, [*weights.values()])
    grads = torch.autograd.grad(loss, [*weights.values()])
    close(dict(zip(weights, grads, strict=True)), dict(zip(weights, expected, strict=True)), 1e-4)


def test_what_is_trained_costs_both_passes_and_one_pass_of_few_steps_is_plain():
    both, plain = make(spec_of(LOSS)), make(spec_of("last"))
    short = with_steps(plain, {"stages.1": 2})
    costs = [count(each) for each in (both, plain, short)]
    assert costs[0].flops_per_token.backward == sum(each.flops_per_token.backward for each in costs[1:])
    assert costs[0].params == costs[1].params
    assert costs[0].cache_bytes_per_token == costs[1].cache_bytes_per_token
    assert (
        "second pass over the same batch, with the same weights: stages.0: stack x 1, stages.1: recur x 2"
        in (make_plan(both).text)
    )
    model, other = ComposedModel(both), ComposedModel(short)
    other.load_state_dict(model.state_dict())
    tokens = tokens_for(both)
    assert torch.equal(model.loss(tokens, tokens, 2), other.loss(tokens, tokens))
    assert model.graph.second is not None


def test_random_numbers_of_both_passes_are_the_same_when_recomputed_and_when_split():
    spec = make(spec_of(LOSS, {**STAGE, "start": {"noise": 1}, "inject": "add"}))
    tokens = tokens_for(spec, 4)
    kept = trained(begun(spec), tokens)
    again = trained(begun(spec, recompute=[*recomputable(begun(spec).graph)]), tokens)
    assert all(torch.equal(each, again[name]) for name, each in kept.items())


def test_a_copy_and_a_nested_stage_make_both_passes():
    nested = {"recur": 3, "step": ["s", "d", {"stack": 2, "step": ["f"]}]}
    model = compiled(spec_of(LOSS, nested, dropout=0))
    tokens = tokens_for(model.spec)
    assert model.graph.second is not None
    assert torch.equal(model.loss(tokens, tokens), copy.deepcopy(model).loss(tokens, tokens))


REFUSED = [
    ({"stack": 3}, LOSS, "model.loss: expected another loss, unless exactly one stage has recur"),
    (
        {"recur": {"steps": 3, "train": {"uniform": [1, 3]}}},
        LOSS,
        "model.loss: expected another loss, since training varies the number of steps",
    ),
    (
        {"recur": 3},
        {**LOSS, "short": 3},
        "model.loss.short: expected fewer steps than the stage runs \\(3\\)",
    ),
]


@pytest.mark.parametrize(("stage", "loss", "expected"), REFUSED)
def test_what_it_cannot_run_twice_is_refused(stage, loss, expected):
    with pytest.raises(SpecError, match=expected):
        make(spec_of(loss, {**stage, "step": ["s", "d", "f"]}))


def test_weights_of_each_step_are_refused():
    spec = make(spec_of(LOSS, {**STAGE, "per_step": "norm"}))
    with pytest.raises(
        SpecError, match=r"model.loss.short: expected a number of steps that the stage can run"
    ):
        make_plan(spec)
