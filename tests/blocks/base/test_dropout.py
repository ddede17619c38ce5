"""Dropout: which elements training drops, what that costs, and that evaluation drops none."""

import naive
import pytest
import torch
from cases import ALL, FFN, SEQ, tree
from loop_proofs import *  # noqa: F403
from loop_proofs import regions_compute_the_same, shaken
from models import close, gradients, probe, tokens_for
from strategies import make

from blocks.primitives.random import dropout
from composer.settings.errors import SpecError

TREE = tree(
    {"seq": SEQ, "ffn": FFN},
    {"recur": 2, "step": ["seq", {"stack": 2, "step": [{"parallel": ["seq", "ffn"]}]}]},
    {"stack": 2, "step": [{"use": "ffn", "norm": "sandwich"}]},
    positions="learned",
    dropout=0.25,
)
ALL_BLOCKS = tree(ALL, {"recur": 2, "step": [*ALL]}, dropout=0.5)


@pytest.fixture
def spec():
    return make(TREE)


@pytest.mark.parametrize(("plain", "step"), [(TREE, 0), (TREE, 3), (ALL_BLOCKS, 0)])
def test_training_drops_what_the_equations_do(plain, step):
    spec = make(plain)
    model = shaken(spec, kernels="reference").double().train()
    tokens, named = tokens_for(spec, 2, 5), dict(model.named_parameters())
    weights = {
        name: tensor.detach().clone().requires_grad_(name in named)
        for name, tensor in model.state_dict().items()
    }
    expected = naive.logits(spec, weights, tokens, step)
    probe(expected).backward()
    model.randomness.step = step
    grads = gradients(model, tokens)
    # angles of rotations are in fp32
    close(grads, {name: weights[name].grad for name in named}, 1e-5)
    model.randomness.step = step
    close({"logits": model(tokens)}, {"logits": expected}, 1e-5)


def test_evaluation_drops_nothing(spec):
    without = spec.model_copy(update={"model": spec.model.model_copy(update={"dropout": 0.0})})
    model, plain = shaken(spec), shaken(without)
    plain.load_state_dict(model.state_dict())
    tokens = tokens_for(spec)
    assert torch.equal(model.eval()(tokens), plain(tokens))
    assert not torch.equal(model.train()(tokens), plain(tokens))


def test_a_batch_in_two_micro_batches_drops_the_same(spec):
    model = shaken(spec)
    tokens = tokens_for(model.spec, 4)
    model.randomness.at(7)
    with torch.no_grad():
        whole = model(tokens)
        model.randomness.start()
        halves = []
        for half in tokens.chunk(2):
            model.randomness.at(7)
            halves.append(model(half))
    close({"logits": torch.cat(halves)}, {"logits": whole}, 1e-6)


def test_regions_drop_the_same(spec):
    tokens = tokens_for(spec)
    regions_compute_the_same(spec, tokens, gradients(shaken(spec), tokens))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_expectation_stays(rate):
    keys = torch.arange(50, dtype=torch.int64) * 0x9E3779B97F4A7C15 % 2**62
    y = dropout(torch.ones(50, 20, 20), keys, True, rate)
    assert y.mean().item() == pytest.approx(1, abs=4 * (rate / (1 - rate) / y.numel()) ** 0.5)
    assert set(y.unique().tolist()) == {0, torch.tensor(1 / (1 - rate)).item()}


@pytest.mark.parametrize("rate", [1, -0.1])
def test_a_rate_that_leaves_nothing_is_refused(rate):
    with pytest.raises(SpecError, match="dropout: expected"):
        make(tree({"ffn": FFN}, {"stack": 1, "step": ["ffn"]}, dropout=rate))


def test_generation_drops_nothing(spec):
    model = shaken(spec).eval()
    tokens = tokens_for(spec, 1, 3)
    made = model.train().generate(tokens, 3, temperature=0)
    expected = tokens
    for _ in range(3):
        expected = torch.cat([expected, model.eval()(expected)[:, -1:].argmax(-1)], 1)
    assert torch.equal(made, expected)
