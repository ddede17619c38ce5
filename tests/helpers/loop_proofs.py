"""What every loop has to hold, as tests that a test module imports and gives its own fixture `spec`."""

import warnings
from functools import partial
from unittest.mock import patch

import pytest
import torch
from flops import counted, declared
from models import close, gradients, shake, tokens_for
from references import equal_to_the_equations
from storages import alive
from storages import counted as ran

from composer.costs.base.precision import BF16, FULL
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.costs.memory.recompute import recompute_flops
from composer.costs.memory.saved_tensors import saved_per_token
from composer.graph.compile import compile_graph
from composer.graph.passes.mark_recompute import recomputable
from composer.module.emission import regions
from composer.module.model import ComposedModel
from composer.testing.memory import measured


def shaken(spec, chosen=(), **settings):
    model = ComposedModel(spec, recompute=chosen, **settings)
    shake(model)
    return model


def everything(spec):
    return list(recomputable(compile_graph(spec)))


def test_it_computes_what_the_equations_do(spec):
    equal_to_the_equations(shaken(spec))


def test_what_runs_costs_what_is_declared(spec):
    assert declared(spec) == counted(spec)


@pytest.mark.parametrize("again", [False, True])
def test_what_is_saved_is_what_is_declared(spec, again):
    model = shaken(spec, everything(spec) if again else ())
    length = spec.model.context
    got = (alive(model, 5) - alive(model, 2)) / (3 * length)
    assert saved_per_token(model.graph, length, FULL) == pytest.approx(got, rel=1e-12)


def test_recomputing_costs_what_is_declared_and_changes_no_gradient(spec):
    plain, again = shaken(spec), shaken(spec, everything(spec))
    tokens = tokens_for(spec)
    expected = gradients(plain, tokens)
    assert all(torch.equal(got, expected[name]) for name, got in gradients(again, tokens).items())
    declared = recompute_flops(again.graph, spec.model.context, full_mask=True)
    assert declared * 2 * spec.model.context == pytest.approx(ran(again) - ran(plain), rel=1e-12)


@pytest.mark.parametrize("again", [False, True])
def test_the_peak_is_the_predicted_one(spec, again):
    large = spec.model.model_copy(update={"context": 256, "vocab": 64})
    spec = spec.model_copy(update={"model": large})
    chosen = everything(spec) if again else ()
    predicted = Memory(compile_graph(spec, recompute=chosen), Batch(16 * 256, 256, BF16)).total
    # at this size fake tensors take longer than real ones
    got = measured(spec, 16, recompute=chosen, fake=False)
    assert predicted == pytest.approx(got, rel=0.02 if again else 1e-4)


def regions_compute_the_same(spec, tokens, expected):
    """Hold the gradients of a model whose regions are compiled, here by a compiler that changes nothing."""
    torch._dynamo.reset()
    eager = partial(torch.compile, backend="eager")
    with patch.object(regions.torch, "compile", eager), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo warns of its own ways
        close(gradients(shaken(spec, torch_compile="on"), tokens), expected)
