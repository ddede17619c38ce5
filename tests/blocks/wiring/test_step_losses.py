"""Losses that read the state after every step: against models of fewer steps, plain and by chunks."""

import copy

import pytest
import torch
import torch.nn.functional as F
from cases import DEPTH, FFN, SEQ, tree
from models import close, compiled, tokens_for
from strategies import make

from blocks.wiring.loss.cross_entropy import chunks
from blocks.wiring.loss.cross_entropy.reference import step_weights, steps_cross_entropy
from blocks.wiring.loss.cross_entropy.steps_by_chunks import steps_head_loss
from composer.costs.base.precision import BF16, FULL, MIXED
from composer.costs.counting.plan import count
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.graph.compile import compile_graph
from composer.settings.errors import SpecError
from composer.testing.memory import measured

BLOCKS = {"s": SEQ, "d": DEPTH, "f": FFN}
WEIGHTS = {"uniform": [1, 1, 1, 1], "linear": [1, 2, 3, 4]}


def spec_of(loss, stage=None, **model):
    stages = [{"stack": 1, "step": ["f"]}, stage or {"recur": 4, "step": ["s", "d", "f"], "inject": "concat"}]
    plain = tree(BLOCKS, *stages)
    plain["model"] |= {"loss": loss, **model}
    return plain


def targets_for(spec):
    targets = tokens_for(spec, 2, seed=1)
    return targets.masked_fill(torch.arange(targets.shape[1]) % 3 == 0, -100)


def gradients_of(loss, model):
    weights = dict(model.named_parameters())
    return dict(zip(weights, torch.autograd.grad(loss, [*weights.values()]), strict=True))


SOME = {"recur": 4, "step": [{"use": "s", "at": "::2"}, {"use": "d", "at": "::3"}, "f"]}


@pytest.mark.parametrize(("tied", "stage"), [(True, None), (False, None), (True, SOME)])
@pytest.mark.parametrize("weighting", WEIGHTS)
def test_the_loss_is_the_mean_of_those_of_models_with_fewer_steps(weighting, tied, stage):
    model = compiled(spec_of({"steps": weighting}, stage, tie_embeddings=tied))
    plain = compiled(spec_of("last", stage, tie_embeddings=tied))
    plain.load_state_dict(model.state_dict())
    tokens, targets = tokens_for(model.spec), targets_for(model.spec)
    each = []
    for steps in range(1, 5):
        fewer = copy.deepcopy(plain)
        fewer.set_steps({"stages.1": steps})
        logits = torch.func.functional_call(fewer, dict(plain.named_parameters()), (tokens,))
        each.append(F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100))
    shares = WEIGHTS[weighting]
    expected = sum(share * loss for share, loss in zip(shares, each, strict=True)) / sum(shares)
    loss, reported = model._losses(tokens, targets)
    close({"loss": loss, **reported}, {"loss": expected, "cross_entropy": each[-1]})
    close(gradients_of(loss, model), gradients_of(expected, plain), 1e-4)
    close({"logits": model(tokens)}, {"logits": plain(tokens)})


@pytest.mark.parametrize("weighting", WEIGHTS)
def test_by_chunks_loss_and_gradients_are_those_of_the_reference(weighting, small_chunks):
    draw = torch.Generator().manual_seed(0)
    states = [torch.randn(3, 5, 6, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(3)]
    weight = torch.randn(11, 6, generator=draw, dtype=torch.float64).requires_grad_()
    targets = torch.randint(11, (3, 5), generator=draw)
    targets = targets.masked_fill(torch.rand(3, 5, generator=draw) < 0.3, -100)
    results = []
    for function in (steps_head_loss, steps_cross_entropy):
        loss, last = function(states, targets, weight, weighting)
        assert not last.requires_grad
        results.append([loss, last, *torch.autograd.grad(3 * loss, [weight, *states])])
    for got, expected in zip(*results, strict=True):
        assert torch.allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize(("size", "dtype"), [(BF16, torch.bfloat16), (FULL, torch.float32), (MIXED, None)])
# torch says that a norm with fp32 gains is not one kernel in bf16
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_the_peak_by_chunks_is_the_predicted_one(size, dtype, small_chunks):
    stage = {"recur": 3, "step": ["s", "f"]}
    plain = tree({"s": {**SEQ, "head_dim": 8}, "f": FFN}, stage, width=16)
    plain["model"] |= {"loss": {"steps": "linear"}, "context": 64, "vocab": 40}
    plain["caps"] = {"train_memory": {"hard": "9GB", "batch_tokens": 256}}
    spec = make(plain)
    graph = compile_graph(spec)
    assert graph.node("loss").kernel.name == "steps_head_loss_onednn"
    predicted = Memory(graph, Batch(256, 64, size)).total
    plain = measured(spec, 4, dtype or torch.float32, autocast=dtype is None, fake=False)
    assert predicted == pytest.approx(plain, rel=0.01)


def test_every_step_has_a_head_in_training_alone():
    costs = [count(make(spec_of(loss))) for loss in ("last", {"steps": "uniform"})]
    more = costs[1].flops_per_token.forward - costs[0].flops_per_token.forward
    assert more == 3 * 2 * 10 * 11
    assert costs[0].params == costs[1].params


DRAWN = {"steps": 3, "train": {"poisson_lognormal": {"mean": 2, "sigma": 0.5, "max": 3}}}
REFUSED = [
    ({"recur": 1}, "last, since the last stage has a single step"),
    ({"recur": DRAWN}, "last, since training varies the number of steps of the last stage"),
    ({"recur": 3, "residual": {"mix": "static"}}, "a last stage that returns the state after its last step"),
]


@pytest.mark.parametrize(("stage", "expected"), REFUSED)
def test_stages_whose_steps_it_cannot_read_are_refused(stage, expected):
    with pytest.raises(SpecError, match=f"model.loss: expected {expected}"):
        make(spec_of({"steps": "uniform"}, {**stage, "step": ["s", "d", "f"]}))


def test_weights_of_steps_add_up_to_1():
    assert step_weights(4, "linear") == [0.1, 0.2, 0.3, 0.4]
    assert sum(step_weights(7, "uniform")) == pytest.approx(1)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of four tokens."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "FEWEST", 4)
