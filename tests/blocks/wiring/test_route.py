"""Routing tokens through steps: equations, what leaks in training, inference, tied weights, refusals."""

import naive
import pytest
import torch
from cases import FFN, SEQ, tree
from hypothesis import given
from hypothesis import strategies as st
from models import close, compiled, moved, probe, tokens_for
from samples import samples
from strategies import make

from blocks.wiring.route.by import reference
from composer.costs.counting.plan import count
from composer.module.model import ComposedModel
from composer.settings.errors import SpecError
from composer.testing.model_checks import COSTS
from composer.testing.wiring import HOST

MLA = {"type": "latent_attention", "heads": 2, "head_dim": 4, "latent": 3}
BLOCKS = {"seq": SEQ, "ffn": FFN, "moe": {"type": "expert_attention", "experts": 3, "active": 2, "hidden": 4}}


def spec_of(keep=(1.0, 0.5, 0.25), step=("seq", "ffn"), recur=3, blocks=BLOCKS, model=(), **stage):
    shares = {} if keep is None else {"keep": [*keep]}
    route = {"by": "expert_choice", **shares, **stage.pop("route", {})}
    used = {name: blocks[name] for name in blocks if name in str(step)}
    return make(tree(used, {"recur": recur, "step": [*step], "route": route, **stage}, **dict(model)))


CASES = {
    "plain": spec_of(route={"loss": 0.3}),
    "odd shares": spec_of((0.7, 0.7, 0.3), recur=4, route={"scale": 1.0}),
    "a mix and other norms": spec_of(step=(["ffn", {"parallel": ["seq", "ffn"], "norm": "post"}])),
    "weights per step": spec_of((0.5,), per_step={"norm": True, "lora": 2}, norm="sandwich"),
    "experts": spec_of(step=("seq", "moe"), residual={"gate": "token"}),
    "keys of the first step": spec_of(
        (1.0, 0.5), blocks={"seq": {**SEQ, "qk_norm": True, "kv_heads": 1}, "ffn": FFN}, route={"kv": "first"}
    ),
    "latent attention": spec_of(step=("mla", "ffn"), blocks={"mla": MLA, "ffn": FFN}),
    "by token": spec_of(None, route={"by": "token", "loss": 0.3, "scale": 0.7}),
    "by token, keys of the first step": spec_of(
        None, norm="scores", route={"by": "token", "kv": "first", "loss": 0}
    ),
}


def loss_of(rows):
    """The router's loss of a batch, without its weight."""
    if rows[0].numbers is None:
        return sum(row.route_loss for row in rows) / len(rows)
    numbers, chances = (
        [each for row in rows for each in getattr(row, name)] for name in ("numbers", "chances")
    )
    steps = len(chances[0])
    return steps * sum(
        numbers.count(i) / len(numbers) * sum(chance[i] for chance in chances) / len(chances)
        for i in range(steps)
    )


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_outputs_losses_and_gradients_are_those_of_the_equations(case, trains):
    model = compiled(CASES[case], "reference").double().train(trains)
    tokens = tokens_for(model.spec, 2, 7)
    named = dict(model.named_parameters())
    weights = {n: t.detach().clone().requires_grad_(n in named) for n, t in model.state_dict().items()}
    rows = [naive._Row(model.spec, weights) for _ in tokens]
    for row in rows:
        row.trains = trains
    expected = torch.stack([row.logits(ids.tolist()) for row, ids in zip(rows, tokens, strict=True)])
    logits = model(tokens)
    close({"logits": logits}, {"logits": expected}, 1e-6)
    wanted, got = probe(expected), probe(logits)
    if trains and model.spec.stages[0].route.loss:
        route_loss = model._losses(tokens, tokens)[1]["route_loss"]
        summed = model.spec.stages[0].route.loss * loss_of(rows)
        close({"loss": route_loss}, {"loss": summed}, 1e-6)
        wanted, got = wanted + summed, got + route_loss
    grads = [
        torch.autograd.grad(each, [*leaves], allow_unused=True, materialize_grads=True)
        for each, leaves in ((got, named.values()), (wanted, [weights[name] for name in named]))
    ]
    close(*(dict(zip(named, each, strict=True)) for each in grads), 1e-5)


@pytest.mark.parametrize("kv", ["here", "first"])
def test_tokens_that_choose_are_causal_in_training(kv):
    model = compiled(spec_of(None, route={"by": "token", "kv": kv})).train()
    for at in range(8):
        row, other = moved(model, at)
        assert not any(row[:at])
        assert not any(other)
        assert row[at]


def test_training_leaks_within_a_sequence_and_inference_does_not(tmp_path, capsys):
    from composer.cli.main import main
    from composer.language.description.show import resolved_yaml

    model = compiled(CASES["plain"])
    training = [moved(model.train(), at) for at in range(8)]
    inference = [moved(model.eval(), at) for at in range(8)]
    assert any(any(row[:at]) for at, (row, _) in enumerate(training)), "no leak to be marked"
    assert not any(any(row[:at]) for at, (row, _) in enumerate(inference))
    assert not any(any(other) for _, other in (*training, *inference))
    file = tmp_path / "s.yaml"
    file.write_text(resolved_yaml(model.spec), encoding="utf-8")
    for command in ("check", "show"):
        assert main([command, str(file)]) == 0
        assert "not causal in training: stages.0 (route), where " in capsys.readouterr().out


def test_the_loss_teaches_inference_to_choose_what_training_chooses(monkeypatch):
    ran, choose = [], reference.choose_tokens

    def spied(*given, **options):
        choice = choose(*given, **options)
        ran.append(choice[2])
        return choice

    monkeypatch.setattr(reference, "choose_tokens", spied)
    model = compiled(spec_of((1.0, 0.5), recur=2, route={"loss": 1.0}))
    tokens = tokens_for(model.spec, 16, 8)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)

    def agreement():
        """The share of tokens for which inference decides as training does."""
        ran.clear()
        with torch.no_grad():
            for trains in (True, False):
                model.train(trains)(tokens)
        return float((ran[1] == ran[3]).float().mean())

    before = agreement()
    for _ in range(60):
        optimizer.zero_grad()
        model.train().loss(tokens, tokens).backward()
        optimizer.step()
    assert before < agreement() > 0.8


def test_the_tied_gradient_is_the_sum_of_the_gradients_of_untied_copies():
    spec = CASES["plain"]
    tied = compiled(spec, "reference").double().train()
    tokens = tokens_for(spec, 2, 8)
    places = [name for name in tied.state_dict() if ".step." in name and "router" not in name]
    weights = {name: tensor.detach().clone() for name, tensor in tied.state_dict().items()}
    copies = [{name: weights[name].clone().requires_grad_() for name in places} for _ in range(3)]

    class Untied(dict):
        def __getitem__(self, name):
            return copies[self.row.own[1]][name] if name in copies[0] else super().__getitem__(name)

    total = 0
    for number, ids in enumerate(tokens):
        row = naive._Row(spec, table := Untied(weights))
        table.row, row.trains = row, True
        logits = row.logits(ids.tolist())
        draw = torch.Generator().manual_seed(0)
        total = total + (logits * torch.randn(2, *logits.shape, generator=draw).to(logits)[number]).sum()
    total.backward()
    probe(tied(tokens)).backward()
    named = dict(tied.named_parameters())
    close(
        {name: named[name].grad for name in places},
        {name: sum(each[name].grad for each in copies) for name in places},
        1e-6,
    )
    assert all(copies[n][places[0]].grad.abs().sum() > 0 for n in range(3))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"keep": (0.5, 1.0)}, "shares that never increase"),
        ({"keep": (1.0,) * 4}, "at most one share for each of the 3 steps"),
        ({"inject": "add"}, "none beside inject: add, which cannot run on selected tokens"),
        ({"halt": {"act": 0.01}}, "none beside halt: act"),
        ({"backprop": {"last": 1}}, "none beside backprop: last"),
        ({"residual": {"streams": 2}}, "none beside residual: streams"),
        ({"step": ({"stack": 2, "step": ["ffn"]}, "seq")}, "none in a stage that has stages in its step"),
        ({"step": ({"use": "ffn", "at": "1:"}, "seq")}, "all steps beside route: by"),
        (
            {"blocks": {"seq": {**SEQ, "window": 2}, "ffn": FFN}},
            "none beside seq, which cannot run on selected tokens: window needs",
        ),
        (
            {"blocks": {**BLOCKS, "seq": {"type": "depth_attention", "heads": 2}}},
            "the block does not declare that it can run",
        ),
        ({"route": {"kv": "first"}, "keep": (0.5,)}, "1 as the first share beside kv: first"),
        ({"route": {"kv": "first"}, "per_step": "norm"}, "here beside per_step"),
        (
            {"route": {"kv": "first"}, "step": ("seq", "mla"), "blocks": {**BLOCKS, "mla": MLA}},
            "kv: here beside mla, which needs keys and values of its own at each step",
        ),
        ({"route": {"kv": "first"}, "step": ("ffn",)}, "no block of the stage is sequence attention"),
        ({"route": {"by": "token"}, "keep": (1.0,)}, "none beside by: token, since each token"),
        (
            {"route": {"by": "token"}, "keep": None, "step": ("moe",)},
            "none beside moe, whose balance_rate would count padding tokens",
        ),
        ({"model": {"loss": {"steps": "uniform"}}}, "none beside loss: steps, since costs cannot"),
        ({"recur": {"steps": 3, "train": {"uniform": [2, 3]}}}, "fixed"),
    ],
)
def test_what_cannot_be_routed_is_refused_with_the_reason(stage, message):
    with pytest.raises(SpecError, match=message):
        count(spec_of(**stage))
    with pytest.raises(SpecError, match="none, unless the stage has recur"):
        make(tree({"f": FFN}, {"stack": 2, "step": ["f"], "route": {"by": "expert_choice", "keep": [0.5]}}))


def test_attention_to_the_first_step_projects_keys_and_values_once():
    costs = {kv: count(spec_of(None, route={"by": "token", "kv": kv})) for kv in ("here", "first")}
    assert costs["first"].params == costs["here"].params
    runs = [{row.place: row.executions for row in result.by_operation} for result in costs.values()]
    assert runs[0]["stages.0.0.seq.key_rotated"] == 3
    assert runs[1]["stages.0.0.seq.key_rotated"] == 1
    cached = [result.cache_bytes_per_token for result in costs.values()]
    assert cached[0] == 3 * cached[1], "memory of tokens that choose is that of all of them"


@pytest.mark.parametrize("check", COSTS)
def test_costs_of_tokens_that_choose_are_exact_where_they_choose_as_expected_or_the_most(check):
    (stage,) = HOST["stages"]
    options = {"norm_type": "layer", "bias": True}
    blocks = {**HOST["blocks"], "a": {**HOST["blocks"]["a"], "qk_norm": True, "kv_heads": 1}}
    route = {"by": "token", "kv": "first"}
    COSTS[check](
        {
            **HOST,
            "model": {**HOST["model"], **options},
            "blocks": blocks,
            "stages": [{**stage, "route": route}],
        }
    )


@samples(8)
@given(st.lists(st.sampled_from([1.0, 0.67, 0.5, 0.33, 0.1]), min_size=1, max_size=3), st.integers(1, 8))
def test_each_step_runs_exactly_its_share(keep, length):
    keep = sorted(keep, reverse=True)
    spec = spec_of(keep, step=("ffn",), model={"width": 6}.items())
    sizes = []
    pick = reference.pick_tokens
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            reference, "pick_tokens", lambda x, places: sizes.append(places.shape) or pick(x, places)
        )
        ComposedModel(spec).train()(tokens_for(spec, 2, length))
    shares = [*keep, *[keep[-1]] * (3 - len(keep))]
    assert sizes == [(2, -(-round(100 * share) * length // 100)) for share in shares]
