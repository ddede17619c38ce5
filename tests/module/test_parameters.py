"""What is built is what is declared: how many parameters, how many sets of weights, under which names."""

import pytest
import torch
from cases import DREAMER, EXPERT, FFN, SEQ, tree
from hypothesis import given
from models import compiled, shipped
from samples import samples
from strategies import make, specs

import composer


def built(model):
    return sum(parameter.numel() for parameter in model.parameters())


def active(model, spec):
    """Parameters less those of experts that a token does not choose, counted on the tensors."""
    total = 0
    for name, parameter in model.named_parameters():
        block = spec.blocks.get(name.split(".")[-2] if "." in name else "")
        routed = block and block.type == "expert_attention" and parameter.ndim == 3
        result = block and block.type == "product_key_experts" and name.endswith((".up", ".down"))
        chosen = block.active * block.heads if result else block.active if routed else len(parameter)
        total += parameter[:chosen].numel()
    return total


@pytest.mark.parametrize("name", shipped())
def test_shipped_specs_build_what_they_declare(name):
    spec = shipped()[name]
    model, costs = composer.compile(spec), composer.cost(spec)
    assert costs.params == built(model)
    assert costs.active_params == active(model, spec)


@samples(100)
@given(specs(room=5))
def test_generated_specs_build_what_they_declare(spec):
    model, costs = composer.compile(spec), composer.cost(spec)
    assert costs.params == built(model)
    assert costs.active_params == active(model, spec)


def stage_names(kind, trips):
    model = compiled(tree({"f": FFN}, {kind: trips, "step": ["f"]}))
    return [name for name, _ in model.named_parameters() if name.startswith("stages.")]


def test_recur_has_one_set_of_weights_and_stack_one_for_each_step():
    roles = ["0.norm", "0.f.up", "0.f.gate", "0.f.down"]
    assert sorted(stage_names("recur", 5)) == sorted(f"stages.0.step.{role}" for role in roles)
    assert sorted(stage_names("stack", 3)) == sorted(
        f"stages.0.layers.{n}.{role}" for n in range(3) for role in roles
    )


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_recur_costs_no_parameters_and_stack_multiplies_them(steps):
    recur, stack = (compiled(tree({"s": SEQ}, {kind: steps, "step": ["s"]})) for kind in ("recur", "stack"))
    rest = built(compiled(tree({"f": FFN}, {"recur": 1, "step": ["f"]}))) - (10 + 3 * 9 * 10)
    assert rest == 11 * 10 + 10
    assert built(stack) - rest == steps * (built(recur) - rest)
    assert len(recur.state_dict()) == 2 + 5


def test_nested_stages_multiply():
    inner = {"stack": 3, "step": ["f"]}
    once = built(compiled(tree({"f": FFN}, {"recur": 4, "step": [inner]})))
    twice = built(compiled(tree({"f": FFN}, {"stack": 2, "step": [inner]})))
    assert twice - once == 3 * (10 + 3 * 9 * 10)


def test_layers_of_a_stack_start_apart_and_train_apart():
    model = compiled(tree({"f": FFN}, {"stack": 2, "step": ["f"]}), shaken=None)
    first, second = (dict(model.named_parameters())[f"stages.0.layers.{n}.0.f.up"] for n in range(2))
    assert not torch.equal(first, second)
    assert first.data_ptr() != second.data_ptr()


def test_the_same_block_twice_has_two_sets_of_weights():
    names = compiled(tree({"f": FFN}, {"recur": 2, "step": ["f", "f"]})).state_dict()
    assert {name for name in names if name.endswith("up")} == {"stages.0.step.0.f.up", "stages.0.step.1.f.up"}


def test_tied_embeddings_are_one_tensor():
    tied, untied = (compiled(tree({"f": FFN}, {"recur": 1, "step": ["f"]}, tie=tie)) for tie in (True, False))
    assert set(untied.state_dict()) - set(tied.state_dict()) == {"head"}
    assert built(untied) - built(tied) == 11 * 10


@samples(30)
@given(specs(room=4))
def test_state_dict_is_the_same_whatever_the_kernels(spec):
    auto = composer.compile(spec).state_dict()
    plain = composer.compile(spec, kernels="reference").state_dict()
    assert list(auto) == list(plain)
    assert all(torch.equal(auto[name], plain[name]) for name in auto)


def test_weights_are_a_function_of_the_seed():
    tree_ = {**DREAMER, "model": {**DREAMER["model"], "vocab": 16, "context": 48}}

    def weights(seed):
        data = {"task": "hop", "length": 48, "symbols": 4, "hops": 2}
        spec = make({**tree_, "train": {"data": data, "tokens": 4096, "seed": seed}})
        return composer.compile(spec).state_dict()

    a, again, b = weights(0), weights(0), weights(1)
    assert all(torch.equal(a[name], again[name]) for name in a)
    drawn = [name for name in a if a[name].unique().numel() > 2]
    assert drawn
    assert not any(torch.equal(a[name], b[name]) for name in drawn)


@pytest.mark.parametrize(
    "name", ["eval", "norm", "training", "forward", "class", "x", "n0", "step", "layers"]
)
def test_a_block_may_have_any_name(name):
    model = compiled(tree({name: EXPERT}, {"stack": 2, "step": [name, {"parallel": [name, name]}]}))
    other = compiled(tree({name: EXPERT}, {"stack": 2, "step": [name, {"parallel": [name, name]}]}), shaken=1)
    other.load_state_dict(model.state_dict())
    tokens = torch.arange(5)[None]
    assert torch.equal(model(tokens), other(tokens))
