"""Experts found by product keys: the best of all pairs, and costs that do not grow with their number."""

import math

import pytest
import torch
from cases import PEER, one
from hypothesis import example, given
from hypothesis import strategies as st
from models import close, compiled, probe, tokens_for
from samples import samples

from blocks.product_key_experts.chosen import choose, chosen
from blocks.product_key_experts.neurons import read, write
from blocks.product_key_experts.operations import TOKENS
from blocks.product_key_experts.reference import choose_plain, read_plain, write_plain
from composer.costs.base.precision import BF16
from composer.costs.counting.plan import count
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.graph.compile import compile_graph
from composer.settings.errors import SpecError
from composer.testing.flops import counted, declared
from composer.testing.memory import measured
from composer.testing.models import make


def test_two_sets_of_keys_find_the_best_of_all_experts_and_chunks_equal_all_tokens_at_once():
    draw = torch.Generator().manual_seed(0)
    sizes = ((3, TOKENS, 2, 8), (11, 4), (11, 4), (3, TOKENS, 6), (121, 6), (121, 6))
    inputs = [torch.randn(s, generator=draw, dtype=torch.float64).requires_grad_() for s in sizes]
    results = []
    plain = read_plain, write_plain
    for choosing, reading, writing in ((choose, read, write), (chosen, *plain), (choose_plain, *plain)):
        query, first, second, x, up, down = inputs
        weights, indices = choosing(query, first, second, active=5)
        y = writing(reading(x, indices, up), weights, indices, down)
        gradients = torch.autograd.grad(probe(y) + probe(weights), inputs)
        results.append({"y": y, "indices": indices.double()} | {str(n): g for n, g in enumerate(gradients)})
    for each in results[:2]:
        close(each, results[2], 1e-12)


def large(experts):
    return make(one({**PEER, "experts": experts, "active": 4, "key_dim": 16}, width=32))


def test_costs_are_exact_where_experts_are_many():
    spec = large(32**2)
    assert counted(spec) == declared(spec)
    context = spec.model.context
    predicted = Memory(compile_graph(spec), Batch(16 * context, context, BF16)).total
    assert math.isclose(predicted, measured(spec, 16, fake=False), rel_tol=0.01)


def test_four_times_the_experts_cost_twice_the_scores_and_no_more():
    few, many = (count(large(keys**2)) for keys in (16, 32))
    forward = [cost.flops_per_token.forward for cost in (few, many)]
    # three steps of two heads score 16 more keys of each set by halves of 8
    assert forward[1] - forward[0] == 3 * 2 * 2 * 16 * 16
    assert many.params - few.params == 2 * 32 * (32**2 - 16**2) + 2 * 16 * 8
    assert many.active_params - few.active_params == 2 * 16 * 8


SIZES = st.fixed_dictionaries(
    {"experts": st.integers(1, 12).map(lambda n: n * n) | st.integers(1, 150), "active": st.integers(1, 12)},
    optional={"heads": st.integers(1, 5), "key_dim": st.integers(1, 9)},
)


@samples(200)
@given(width=st.integers(1, 24), sizes=SIZES)
@example(width=1, sizes={"experts": 1, "active": 1})
@example(width=2, sizes={"experts": 1, "active": 1})
@example(width=2, sizes={"experts": 144, "active": 12, "heads": 5, "key_dim": 2})
@example(width=1, sizes={"experts": 9, "active": 3, "heads": 4, "key_dim": 8})
def test_sizes_are_refused_with_the_field_and_the_reason_or_train(width, sizes):
    plain = one({"type": "product_key_experts", **sizes}, width=width)
    keys, key_dim = math.isqrt(sizes["experts"]), sizes.get("key_dim", width // sizes.get("heads", 1))
    divides = "key_dim" in sizes or width % sizes.get("heads", 1) == 0
    sound = keys**2 == sizes["experts"] and sizes["active"] <= keys and divides and key_dim % 2 == 0
    if not sound:
        with pytest.raises(SpecError) as refused:
            make(plain)
        fields = {fault.path.rpartition(".")[2] for fault in refused.value.faults}
        assert fields <= {"experts", "active", "heads", "key_dim"}
        assert all(fault.expected and fault.got for fault in refused.value.faults)
        return
    model = compiled(plain)
    tokens = tokens_for(model.spec, 2, 5)
    loss = model.train().loss(tokens, tokens)
    loss.backward()
    assert loss.isfinite()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
    assert sum(weight.numel() for weight in model.parameters()) == model.plan.costs.params
