"""Residual streams: equal to the papers' equations; at the start the model is a plain residual network."""

import copy
from itertools import product

import pytest
import torch
from cases import DEPTH, FFN, SEQ, tree
from models import compiled, gradients, tokens_for
from references import equal_to_the_equations
from strategies import make

from composer.costs.counting.plan import count
from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import recomputable
from composer.language.schema.identity import arch_hash
from composer.module.model import ComposedModel
from composer.settings.errors import SpecError

KINDS = [
    {"mix": mix, "constrain": constrain, "per": per}
    for mix, constrain, per in product(
        ("static", "dynamic"), ("none", "doubly_stochastic", "diagonal"), ("sublayer", "step")
    )
    if (constrain, per) != ("doubly_stochastic", "step")
]
SMALL = {"seq": SEQ, "depth": DEPTH, "ffn": FFN}


def streams(residual, **stage):
    return tree(SMALL, {"recur": 2, "step": ["seq", "depth", "ffn"], "residual": residual, **stage})


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_streams_compute_what_the_papers_say(count, kind):
    equal_to_the_equations(compiled(streams({"streams": count, **kind})))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind["constrain"] != "diagonal"], ids=str)
@pytest.mark.parametrize("count", [1, 3])
def test_a_model_with_streams_starts_as_one_without(count, kind):
    loss = {"loss": {"steps": "uniform"}}  # which reads the state after each step
    specs = [streams(residual) for residual in ({"streams": count, **kind}, "add")]
    model, plain = (ComposedModel(make({**each, "model": {**each["model"], **loss}})) for each in specs)
    plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
    tokens = tokens_for(model.spec)
    assert torch.allclose(model(tokens), plain(tokens), atol=1e-5)
    assert torch.allclose(model.loss(tokens, tokens), plain.loss(tokens, tokens), atol=1e-5)


def test_sublayers_read_one_stream_each_in_turn():
    model = ComposedModel(compiled(streams({"streams": 2}, stack=2, recur=None)).spec)
    starts = [weight.tolist() for name, weight in model.named_parameters() if name.endswith(".read")]
    assert starts == [[1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("residual", "stage", "expected"),
    [
        ({}, {"norm": "post"}, "1 beside norm: post, which reads a single stream"),
        ({}, {"inject": "add"}, "1 beside inject: add, which reads a single stream"),
        (
            {"constrain": "doubly_stochastic", "per": "step"},
            {},
            "none or diagonal beside per: step, since a step already adds its input to its output",
        ),
        (
            {},
            {"step": ["seq", {"stack": 2, "step": ["depth", "ffn"]}]},
            "the same residual in this stage and those in its step, since they share streams",
        ),
        (
            {"mix": "static"},
            {"step": ["seq", {"stack": 2, "step": ["depth", "ffn"], "residual": {"streams": 2}}]},
            "the same residual in this stage and those in its step, since they share streams",
        ),
    ],
)
def test_what_streams_exclude_is_refused(residual, stage, expected):
    with pytest.raises(SpecError, match=expected):
        make(streams({"streams": 2, **residual}, **stage))


def test_stages_in_a_step_share_its_streams():
    residual = {"streams": 2}
    inner = {"stack": 2, "step": ["depth", "ffn"], "residual": residual}
    spec = streams(residual, step=["seq", inner])
    spec["blocks"]["depth"] = {**DEPTH, "input": True}
    model = compiled(spec)
    opened = [row.place for row in count(model.spec).by_operation if row.place.endswith("open")]
    assert opened == ["stages.0.open"]
    equal_to_the_equations(model)


@pytest.mark.parametrize("mix", ["static", "dynamic"])
def test_streams_of_the_model_span_its_stages(mix):
    residual = {"streams": 3, "mix": mix}
    nested = {"recur": 2, "step": ["ffn", {"stack": 2, "step": ["depth"]}]}
    spec = tree(SMALL, {"stack": 2, "step": ["seq", "ffn"]}, nested)
    spec["model"]["residual"] = residual
    model = compiled(spec)
    places = {row.place.rpartition(".")[2] for row in count(model.spec).by_operation if "." not in row.place}
    assert {"open", "close"} <= places
    assert not any(row.place.endswith((".open", ".close")) for row in count(model.spec).by_operation)
    equal_to_the_equations(model)

    said = copy.deepcopy(spec)
    for stage in (*said["stages"], said["stages"][1]["step"][1]):
        stage["residual"] = residual
    apart = {**said, "model": {**spec["model"], "residual": "add"}}
    hashes = [arch_hash(make(each)) for each in (spec, said, apart)]
    assert hashes[0] == hashes[1] != hashes[2]

    spec["stages"][1]["residual"] = "add"
    with pytest.raises(SpecError, match="expected streams, as on the model, since it spans all stages"):
        make(spec)


def test_streams_per_step_on_the_model_are_those_of_each_stage():
    spec = streams(None)
    del spec["stages"][0]["residual"]
    spec["model"]["residual"] = {"streams": 2, "per": "step"}
    equal_to_the_equations(compiled(spec))
    assert arch_hash(make(spec)) == arch_hash(make(streams(spec["model"]["residual"])))


def test_depth_attention_in_a_stage_within_streams_reads_their_mean():
    residual = {"streams": 2}
    inner = {"recur": 2, "step": ["depth", "ffn"], "residual": residual}
    spec = streams(residual, step=["seq", inner])
    spec["blocks"]["depth"] = {**DEPTH, "input": True}
    equal_to_the_equations(compiled(spec))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_recomputed_changes_no_gradient_and_no_bit(kind):
    spec = make(streams({"streams": 3, **kind}))
    plain = compiled(spec)
    again = ComposedModel(spec, recompute=recomputable(compile_graph(spec)))
    again.load_state_dict(plain.state_dict())
    tokens = tokens_for(spec)
    for name, gradient in gradients(again, tokens).items():
        assert torch.equal(gradient, gradients(plain, tokens)[name]), name
