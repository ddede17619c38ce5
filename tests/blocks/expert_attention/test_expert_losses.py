"""The losses of routing, summed over steps and layers, against the equations token by token."""

import naive
import pytest
import torch
from cases import EXPERT, FFN, tree
from models import close, compiled, tokens_for
from strategies import make

from blocks.expert_attention.operations import Experts, Route
from blocks.ir.kernel import Target
from composer.graph.compile import compile_graph
from composer.settings.errors import SpecError

STAGES = [
    {"recur": 2, "step": ["a", {"stack": 2, "step": ["b", "f"]}]},
    {"stack": 1, "step": [{"parallel": ["a", "f"]}]},
]


def spec_of(**losses):
    blocks = {"a": {**EXPERT, **losses}, "b": {**EXPERT, "scores": "softmax", **losses}, "f": FFN}
    return make(tree(blocks, *STAGES))


def losses_of(spec, weights, tokens):
    """The mean over tokens of each loss, summed over places and steps: (z_loss, balance_loss)."""
    rows = [naive._Row(spec, weights) for _ in tokens]
    for row, ids in zip(rows, tokens, strict=True):
        row.logits(ids.tolist())
    z = balance = 0
    for at, step in rows[0].routed:
        each = [token for row in rows for token in row.routed[at, step]]
        soft = spec.blocks[at.rpartition(".")[2]].scores == "softmax"
        z = z + sum(torch.log(logits.exp().sum()) ** 2 for logits, _ in each) / len(each)
        for expert in range(5):
            load = sum(expert in chosen for _, chosen in each) / (2 * len(each))
            shares = [
                logits.softmax(0) if soft else logits.sigmoid() / logits.sigmoid().sum() for logits, _ in each
            ]
            balance = balance + 5 * load * sum(share[expert] for share in shares) / len(each)
    return z, balance


def test_losses_and_their_gradients_are_those_of_the_equations():
    model = compiled(spec_of(z_loss=0.3, balance_loss=0.2)).double()
    tokens = tokens_for(model.spec, 2, 5)
    loss, reported = model._losses(tokens, tokens)
    weights = dict(model.named_parameters())
    z, balance = losses_of(model.spec, {**weights, **dict(model.named_buffers())}, tokens)
    expected = {"z_loss": 0.3 * z, "balance_loss": 0.2 * balance}
    close({name: reported[name] for name in expected}, expected, 1e-9)
    close({"sum": loss - reported["cross_entropy"]}, {"sum": sum(expected.values())}, 1e-9)
    got, wanted = (
        torch.autograd.grad(each, [*weights.values()], allow_unused=True, materialize_grads=True)
        for each in (loss - reported["cross_entropy"], sum(expected.values()))
    )
    close(dict(zip(weights, got, strict=True)), dict(zip(weights, wanted, strict=True)), 1e-6)


def test_the_logits_and_what_is_scored_stay_as_they_are():
    model, plain = compiled(spec_of(z_loss=0.5)), compiled(spec_of())
    plain.load_state_dict(model.state_dict())
    tokens = tokens_for(model.spec)
    assert torch.equal(model(tokens), plain(tokens))
    assert torch.equal(model._losses(tokens, tokens)[1]["cross_entropy"], plain.loss(tokens, tokens))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"z_loss": 0.1, "scores": "softmax"}, "routing with softmax scores, z_loss"),
        ({"renormalize": False}, "routing with scores that are not renormalised"),
        ({"activation": "relu"}, "experts with relu"),
    ],
)
def test_the_fused_kernel_steps_aside_and_says_why(fields, why):
    block = {**EXPERT, "hidden": 8, **fields}
    spec = make(tree({"a": block}, {"recur": 2, "step": ["a"]}, width=16))
    graph = compile_graph(spec, Target("cuda", "bfloat16")).loop("stages.0").body
    assert isinstance(graph.node("0.a.route").op, Route)
    assert isinstance(graph.node("0.a.experts").op, Experts)
    reasons = [graph.node(name).choice.why for name in ("0.a.route", "0.a.experts")]
    assert any(f"not triton_experts: {why}" in each for each in reasons)
    with pytest.raises(SpecError, match=why):
        compile_graph(spec, Target("cuda", "bfloat16"), "fused")
