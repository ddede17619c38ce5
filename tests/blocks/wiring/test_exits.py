"""Exits by a learned gate: the expected loss, and the logits of the step at which a token leaves."""

import copy

import pytest
import torch
import torch.nn.functional as F
from cases import DEPTH, FFN, SEQ, tree
from models import check_saved, close, compiled, tokens_for
from strategies import make

from composer.costs.base.precision import BF16, FULL, MIXED
from composer.costs.counting.plan import count
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.graph.compile import compile_graph
from composer.module.model import ComposedModel
from composer.settings.errors import SpecError
from composer.testing.flops import counted, declared
from composer.testing.memory import measured

BLOCKS = {"s": SEQ, "d": DEPTH, "f": FFN}
GATE = {"gate": "learned"}
STEPS = 4


def spec_of(loss=0.1, gate=GATE, first=None, **stage):
    last = {"recur": STEPS, "step": ["s", "d", "f"], "exit": gate, **stage}
    plain = tree(BLOCKS, {"stack": 1, "step": ["f"], **(first or {})}, last)
    plain["model"]["loss"] = {"exit": loss} if isinstance(loss, float) else loss
    return plain


def by_steps(model):
    """Logits of each step as a differentiable function of the model's weights, and the gate's numbers."""
    plain = compiled(spec_of("last", "none"))
    tokens = tokens_for(model.spec)
    weights = {name: each for name, each in model.named_parameters() if not name.startswith("exit_")}
    logits, gates = [], []
    for steps in range(1, STEPS + 1):
        fewer = copy.deepcopy(plain)
        fewer.set_steps({"stages.1": steps})
        made = torch.func.functional_call(fewer, weights, (tokens,))
        logits.append(made)
        # normed states are those whose product with the embedding the logits are
        states = made @ torch.linalg.pinv(model.embedding.detach()).T
        gates.append(states)
    return logits, gates


def shares_of(gates, weight, bias):
    """p_t = g_t times the product of earlier 1 - g_j; the last step has what is left."""
    left, shares = 1.0, []
    for state in gates[:-1]:
        chance = torch.sigmoid(state @ weight[0] + bias)
        shares.append(left * chance)
        left = left * (1 - chance)
    return [*shares, left]


def exits():
    model = compiled(spec_of(0.3))
    with torch.no_grad():
        model.embedding.copy_(torch.randn(11, 10, generator=torch.Generator().manual_seed(1)))
    return model.double()


def test_the_loss_is_expected_over_exits_less_their_entropy():
    model = exits()
    tokens = tokens_for(model.spec)
    targets = tokens_for(model.spec, seed=1).masked_fill(torch.arange(8) % 3 == 0, -100)
    logits, states = by_steps(model)
    shares = shares_of(states, model.exit_gate, model.exit_bias)
    scored = targets != -100
    loss = entropy = 0
    for share, each in zip(shares, logits, strict=True):
        losses = F.cross_entropy(each.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="none")
        loss = loss + (share * losses.view_as(targets)).sum() / scored.sum()
        entropy = entropy - (share * share.log())[scored].sum() / scored.sum()
    got, reported = model._losses(tokens, targets)
    last = F.cross_entropy(logits[-1].flatten(0, 1), targets.flatten(), ignore_index=-100)
    expected = {"loss": loss - 0.3 * entropy, "cross_entropy": last, "exit_entropy": entropy}
    close({"loss": got, **reported}, expected, 1e-6)
    names = [name for name, _ in model.named_parameters() if name != "embedding"]
    weights = [model.get_parameter(name) for name in names]
    grads = [torch.autograd.grad(each, weights) for each in (got, expected["loss"])]
    close(*(dict(zip(names, each, strict=True)) for each in grads), 1e-5)


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.9, 1.0])
def test_a_token_leaves_where_its_probabilities_reach_the_threshold(threshold):
    model = exits()
    tokens = tokens_for(model.spec)
    with torch.no_grad():
        logits, states = by_steps(model)
        sums = torch.stack(shares_of(states, model.exit_gate, model.exit_bias)).cumsum(0)
        step = (sums < threshold - 1e-9).sum(0).clamp(max=STEPS - 1)
        expected = torch.stack(logits)[step, torch.arange(2)[:, None], torch.arange(8)]
        got = model(tokens, exit_threshold=threshold)
    close({"logits": got}, {"logits": expected}, 1e-5)
    assert threshold == 1 or len(step.unique()) > 1


@pytest.mark.parametrize(("bias", "steps"), [(9.0, 1), (-0.3, 2), (-9.0, STEPS)])
def test_no_step_runs_after_all_tokens_have_left(bias, steps):
    model, ran = exits().eval(), []
    tokens = tokens_for(model.spec)
    with torch.no_grad():
        model.exit_gate.zero_()
        model.exit_bias.fill_(bias)
        expected = by_steps(model)[0][steps - 1]
        close({"logits": model(tokens, exit_threshold=0.6)}, {"logits": expected}, 1e-5)
        model.stages[1].step.register_forward_hook(lambda *_: ran.append(1))
        close({"logits": model(tokens, exit_threshold=0.6)}, {"logits": expected}, 1e-5)
        assert len(ran) == steps
        assert model(tokens).isfinite().all()
        assert len(ran) == steps + STEPS


def test_by_default_all_steps_run():
    model = exits()
    tokens = tokens_for(model.spec)
    close({"logits": model(tokens)}, {"logits": by_steps(model)[0][-1]}, 1e-6)


def test_thresholds_that_mean_nothing_are_refused():
    model, plain = exits(), compiled(spec_of("last", "none"))
    tokens = tokens_for(model.spec)
    with pytest.raises(ValueError, match="exit_threshold: expected a number above 0 and at most 1, got 0"):
        model(tokens, exit_threshold=0)
    with pytest.raises(ValueError, match="expected a model with exit"):
        plain(tokens, exit_threshold=0.5)


REFUSED = [
    (spec_of("last"), "stages.1.exit: expected none beside model.loss last, which does not train the gate"),
    (spec_of(0.1, "none"), "model.loss: expected another loss, since the last stage has exit: none"),
    (
        spec_of(first={"exit": GATE}),
        "stages.0.exit: expected none, unless the stage is the last one and has recur",
    ),
    (spec_of(recur=1), "stages.1.exit: expected none, unless the stage is the last one and has recur"),
]


@pytest.mark.parametrize(("plain", "expected"), REFUSED)
def test_a_gate_and_its_loss_go_together(plain, expected):
    with pytest.raises(SpecError, match=expected):
        make(plain)


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_it_costs_what_is_declared():
    plain = tree(
        {"s": {**SEQ, "head_dim": 8}, "f": FFN}, {"recur": 3, "step": ["s", "f"], "exit": GATE}, width=32
    )
    plain["model"] |= {"loss": {"exit": 0.1}, "context": 64}
    spec = make(plain)
    model = ComposedModel(spec)
    assert count(spec).params == sum(parameter.numel() for parameter in model.parameters())
    assert declared(spec) == pytest.approx(counted(spec), rel=1e-12)
    check_saved(model)
    for size, dtype in [(BF16, torch.bfloat16), (FULL, torch.float32), (MIXED, None)]:
        predicted = Memory(compile_graph(spec), Batch(1024, 64, size)).total
        ran = measured(spec, 16, dtype or torch.float32, autocast=dtype is None, fake=False)
        assert predicted == pytest.approx(ran, rel=0.01)
