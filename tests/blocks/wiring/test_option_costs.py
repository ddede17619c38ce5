"""Every value of every key of wiring, and of every field of `model`, costs what is declared.

Parameters, FLOPs, saved bytes and peak memory are compared with what is built and measured.
"""

from math import isclose

import pytest
import torch
from cases import FFN, SEQ, tree, with_partner
from flops import counted, declared
from strategies import make

from composer.costs.base.precision import BF16, FULL, MIXED
from composer.costs.counting.plan import count
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.costs.memory.saved_tensors import saved_per_token
from composer.graph.compile import compile_graph
from composer.language.schema.spec import Model
from composer.module.model import ComposedModel
from composer.testing.examples import options_beside, other_values, wiring_examples
from composer.testing.memory import measured
from composer.testing.models import kept

OPTIONS = [
    (owner, key, value)
    for owner in ("model", "stage", "parallel")
    for key, values in wiring_examples(owner).items()
    for value in values
]
OPTIONS += [("model", key, value) for key, value in other_values(Model) if key != "context"]
OPTIONS += [("model", "norm_type", "layer, with shifts")]
LENGTH, SEQUENCES = 64, 16


def spec_with(owner, key, value):
    """A model of one stage with an option; its blocks stand alone and in parallel."""
    own = {owner: {key: value}}
    if value == "layer, with shifts":
        own = {"model": {"norm_type": "layer", "bias": True}}
    if owner == "stage":
        own["stage"] |= options_beside(key, value)
    mix = {"parallel": ["seq", "ffn"], **own.get("parallel", {})}
    stage = {"recur": 3, "step": ["seq", mix, "ffn"], **own.get("stage", {})}
    found = tree({"seq": {**SEQ, "head_dim": 8}, "ffn": {**FFN, "hidden": 48}}, stage, width=32)
    found["model"] |= {"context": LENGTH, **own.get("model", {})}
    return make(with_partner(found))


@pytest.mark.parametrize(("owner", "key", "value"), OPTIONS, ids=str)
def test_an_option_costs_what_is_declared(owner, key, value):
    spec = spec_with(owner, key, value)
    model = ComposedModel(spec)
    assert count(spec).params == sum(parameter.numel() for parameter in model.parameters())
    assert all(
        isclose(told, ran, rel_tol=1e-12) for told, ran in zip(declared(spec), counted(spec), strict=True)
    )
    found = (kept(model, 5) - kept(model, 2)) / (3 * LENGTH)
    assert isclose(saved_per_token(model.graph, LENGTH, FULL), found, rel_tol=1e-12)


# torch says that a norm with fp32 gains is not one kernel in bf16
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize(("size", "dtype"), [(BF16, torch.bfloat16), (FULL, torch.float32), (MIXED, None)])
@pytest.mark.parametrize(("owner", "key", "value"), OPTIONS, ids=str)
def test_the_peak_of_an_option_is_the_predicted_one(owner, key, value, size, dtype):
    spec = spec_with(owner, key, value)
    told = Memory(compile_graph(spec), Batch(SEQUENCES * LENGTH, LENGTH, size)).total
    found = measured(spec, SEQUENCES, dtype or torch.float32, autocast=dtype is None)
    assert told == pytest.approx(found, rel=0.01)
