"""Experts with a capacity, and experts that choose tokens: equations, what leaks in training, inference."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import EXPERT, FFN, tree
from models import close, compiled, moved, tokens_for
from strategies import make

from blocks.expert_attention import batched_reference
from composer.cli.main import main
from composer.settings.errors import SpecError

WIDTH, EXPERTS, HIDDEN = 6, 4, 3


def drawn(length, activation):
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, length, WIDTH), (2, length, WIDTH), (EXPERTS, WIDTH, 2 * HIDDEN), (EXPERTS, HIDDEN, WIDTH)]
    if activation == "relu":
        shapes[2] = (EXPERTS, WIDTH, HIDDEN)
    shapes.append((EXPERTS, WIDTH))
    return [torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for shape in shapes]


def expert(vector, up, down, activation):
    both = vector @ up
    hidden = both.relu() if activation == "relu" else F.silu(both[:HIDDEN]) * both[HIDDEN:]
    return hidden @ down


def scores_of(query, keys, scores):
    logits = query @ keys.T / math.sqrt(WIDTH)
    return logits, logits.softmax(-1) if scores == "softmax" else logits.sigmoid()


def by_hand_with_capacity(x, query, up, down, keys, balance, active, capacity, scores, renormalize, act):
    """GShard: each rank of choices after the other, token by token, until an expert is full."""
    size = min(math.ceil(capacity * x.shape[1] * active / EXPERTS), x.shape[1])
    rows = []
    for row, queries in zip(x, query, strict=True):
        logits, given = scores_of(queries, keys, scores)
        ranked = (logits + balance).argsort(-1, descending=True)[:, :active].tolist()
        filled, y = [0] * EXPERTS, [torch.zeros_like(vector) for vector in row]
        for rank in range(active):
            for t, vector in enumerate(row):
                e = ranked[t][rank]
                filled[e] += 1
                if filled[e] <= size:
                    total = sum(given[t, each] for each in ranked[t]) if renormalize else 1
                    y[t] = y[t] + given[t, e] / total * expert(vector, up[e], down[e], act)
        rows.append(torch.stack(y))
    return torch.stack(rows)


def by_hand_choosing(x, query, up, down, keys, active, scores, renormalize, act):
    """Expert choice: each column of the scores keeps its largest n active / experts numbers."""
    size = math.ceil(x.shape[1] * active / EXPERTS)
    rows = []
    for row, queries in zip(x, query, strict=True):
        _, given = scores_of(queries, keys, scores)
        chosen = [set(given[:, e].argsort(descending=True)[:size].tolist()) for e in range(EXPERTS)]
        y = []
        for t, vector in enumerate(row):
            mine = [e for e in range(EXPERTS) if t in chosen[e]]
            total = sum(given[t, e] for e in mine) if renormalize else 1
            parts = [given[t, e] / total * expert(vector, up[e], down[e], act) for e in mine]
            y.append(sum(parts, torch.zeros_like(vector)))
        rows.append(torch.stack(y))
    return torch.stack(rows)


@pytest.mark.parametrize("capacity", [None, 0.4, 1.0, 3.0])
@pytest.mark.parametrize(
    ("scores", "renormalize", "act"), [("sigmoid", True, "swiglu"), ("softmax", False, "relu")]
)
def test_outputs_and_gradients_are_those_of_the_equations(capacity, scores, renormalize, act):
    leaves = drawn(7, act)
    options = {"scores": scores, "renormalize": renormalize, "z_loss": False, "activation": act}
    state = 0.3 * torch.arange(EXPERTS, dtype=torch.float64)
    if capacity is None:
        counted = torch.zeros(EXPERTS + 1, dtype=torch.float64)
        y = batched_reference.choosing_tokens(*leaves[:2], True, *leaves[2:], state, counted, 2, **options)
        expected = by_hand_choosing(*leaves, 2, scores, renormalize, act)
    else:
        counted = torch.zeros(EXPERTS)
        y = batched_reference.with_capacity(
            *leaves[:2], True, *leaves[2:], state, counted, 2, capacity, balance_loss=False, **options
        )
        expected = by_hand_with_capacity(*leaves, state, 2, capacity, scores, renormalize, act)
    weigh = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    close({"y": y}, {"y": expected}, 1e-12)
    got, wanted = (torch.autograd.grad((each * weigh).sum(), leaves) for each in (y, expected))
    close(dict(enumerate(got)), dict(enumerate(wanted)), 1e-10)
    assert counted.sum() > 0


LIMITED = {"capacity": 0.75}
CHOOSING = {"routing": "expert_choice"}


@pytest.mark.parametrize("fields", [LIMITED, CHOOSING])
def test_training_leaks_within_a_sequence_and_inference_does_not(fields, tmp_path, capsys):
    spec = make(tree({"e": {**EXPERT, **fields}}, {"recur": 2, "step": ["e"]}))
    model = compiled(spec)
    training = [moved(model.train(), at) for at in range(8)]
    inference = [moved(model.eval(), at) for at in range(8)]
    assert any(any(row[:at]) for at, (row, _) in enumerate(training)), "no leak to be marked"
    assert not any(any(other) for _, other in training), "sequences are groups of their own"
    for at, (row, other) in enumerate(inference):
        assert [n for n, each in enumerate(row) if each] == [at]
        assert not any(other)
    # said wherever the spec is described
    file = tmp_path / "s.yaml"
    assert main(["show", "specs/dreamer-tiny.yaml"]) == 0
    assert "not causal" not in capsys.readouterr().out
    from composer.language.description.show import resolved_yaml

    file.write_text(resolved_yaml(spec), encoding="utf-8")
    for command in ("check", "show"):
        assert main([command, str(file)]) == 0
        assert "not causal in training: blocks.e, where " in capsys.readouterr().out


def test_a_capacity_for_one_choice_keeps_to_the_order_of_tokens():
    model = compiled(tree({"e": {**EXPERT, "active": 1, **LIMITED}}, {"recur": 2, "step": ["e"]})).train()
    for at in range(8):
        assert not any(moved(model, at)[0][:at])
    assert model.spec.blocks["e"].not_causal() == ""


def test_thresholds_follow_the_cutoffs_so_that_inference_runs_as_many_tokens():
    spec = make(tree({"e": {**EXPERT, **CHOOSING}}, {"recur": 1, "step": ["e"]}))
    model = compiled(spec).train()
    tokens = tokens_for(spec, 64, 8)
    for _ in range(60):
        model(tokens)
        model.update_expert_balance()
    threshold = model.get_buffer("stages.0.step.0.e.threshold")
    ran = []

    def spied(scores, *_):
        ran.append((scores >= threshold).float().mean((0, 1)))

    with pytest.MonkeyPatch.context() as patch:
        above = batched_reference._above
        patch.setattr(
            batched_reference, "_above", lambda x, every, *rest: (spied(every), above(x, every, *rest))[1]
        )
        model.eval()(tokens)
    # an expert's share of the tokens: ceil(8 * 2 / 5) of 8
    torch.testing.assert_close(ran[0], torch.full((5,), 4 / 8), atol=0.15, rtol=0)


@pytest.mark.parametrize("fields", [{"capacity": 1.0}, {"balance_loss": 0.1}, {"balance_rate": 0.1}])
def test_experts_that_choose_refuse_what_balances_or_limits_them(fields):
    with pytest.raises(SpecError, match="with routing: expert_choice"):
        make(tree({"e": {**EXPERT, **CHOOSING, **fields}, "f": FFN}, {"stack": 1, "step": ["e"]}))


def test_the_fused_kernel_steps_aside_and_says_why():
    from blocks.ir.kernel import Target
    from composer.graph.compile import compile_graph

    for fields, why in ((LIMITED, "a capacity"), (CHOOSING, "experts that choose")):
        block = {**EXPERT, "hidden": 8, **fields}
        spec = make(tree({"a": block}, {"recur": 2, "step": ["a"]}, width=16))
        node = compile_graph(spec, Target("cuda", "bfloat16")).loop("stages.0").body.node("0.a.experts")
        assert f"not triton_experts: routing with {why}" in node.choice.why
