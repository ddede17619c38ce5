"""The gated delta rule over several chunks: gradients, costs, and a cache that does not grow."""

import math

import pytest
import torch
from cases import DELTA, one
from models import close, compiled, probe, tokens_for

from blocks.gated_delta import by_autograd
from blocks.gated_delta.chunked import mix
from blocks.gated_delta.convolved import convolve
from blocks.gated_delta.operations import CHUNK
from blocks.gated_delta.reference import convolve_plain, mix_plain
from composer.costs.base.precision import BF16
from composer.costs.counting.plan import count
from composer.costs.memory.operation_memory import Batch
from composer.costs.memory.peak import Memory
from composer.graph.compile import compile_graph
from composer.module.generates import decoder
from composer.settings.errors import SpecError
from composer.testing.flops import counted, declared
from composer.testing.memory import measured
from composer.testing.models import make

LONG = 2 * CHUNK + 21


def given(length, shift=0.0):
    draw = torch.Generator().manual_seed(length)
    shapes = (
        (2, length, 3, 4),
        (2, length, 3, 4),
        (2, length, 3, 5),
        (2, length, 3),
        (2, length, 3),
        (3,),
        (3,),
    )
    results = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    results[-1] += shift
    return [each.requires_grad_() for each in results]


def compare(ours, plain, inputs, tolerance=1e-10):
    got, expected = ours(*inputs), plain(*inputs)
    close({"y": got}, {"y": expected}, tolerance)
    both = (torch.autograd.grad(probe(y), inputs) for y in (got, expected))
    first, second = (dict(enumerate(each)) for each in both)
    close({str(n): x for n, x in first.items()}, {str(n): x for n, x in second.items()}, tolerance)


@pytest.mark.parametrize(("length", "shift"), [(1, 0.0), (CHUNK, -4.6), (LONG, 0.0), (LONG, 40.0)])
def test_chunks_equal_one_token_after_another(length, shift):
    # a shift of 40 forgets all at each token: what is left of others overflows where it is not masked
    for chunked in (mix, by_autograd.mix):
        compare(chunked, mix_plain, given(length, shift))


@pytest.mark.parametrize(("length", "size"), [(1, 4), (7, 4), (3, 1)])
def test_a_short_convolution_equals_its_equation(length, size):
    inputs = [torch.randn(2, length, 3, 2).double(), torch.randn(6, size).double()]
    compare(convolve, convolve_plain, [each.requires_grad_() for each in inputs])


def long(context=LONG, **block):
    plain = one({**DELTA, **block}, recur=2)
    return {**plain, "model": {**plain["model"], "context": context}}


def test_costs_are_exact_over_several_chunks():
    spec = make(long())
    assert counted(spec) == declared(spec)
    spec = make(long(heads=2, head_dim=24))
    predicted = Memory(compile_graph(spec), Batch(4 * LONG, LONG, BF16)).total
    assert math.isclose(predicted, measured(spec, 4, fake=False), rel_tol=0.01)


def test_flops_per_token_do_not_grow_with_the_context():
    once, twice = (count(make(long(CHUNK * n))).flops_per_token.forward for n in (4, 8))
    assert once == twice


@torch.no_grad()
def test_what_generation_keeps_does_not_grow_and_crosses_chunks():
    model = compiled(long()).double().eval()
    tokens = tokens_for(model.spec, 2, LONG)
    whole, decode = model(tokens), decoder(model, LONG)
    logits = [decode(tokens[:, : CHUNK + 3])]
    before = decode.past.nbytes
    logits += [decode(tokens[:, t : t + 1]) for t in range(CHUNK + 3, LONG)]
    close({"logits": torch.stack(logits, 1)}, {"logits": whole[:, CHUNK + 2 :]}, 1e-9)
    assert decode.past.nbytes == before
    # three convolutions and a state at each of two steps, rounded up
    declared_bytes = count(model.spec).cache_bytes_per_token * LONG * 2
    assert 0 <= declared_bytes - before / 2 < 2 * 4 * 8 * LONG


def test_states_are_counted_in_fp32_under_autocast():
    train = {"data": {"task": "hop", "length": 16, "symbols": 4, "hops": 2}, "tokens": "2k"}
    full, half = (
        count(make({**long(16, convolution=0), "train": {**train, "precision": precision}}))
        for precision in ("32", "bf16-mixed")
    )
    assert full.cache_bytes_per_token == half.cache_bytes_per_token == 2 * 4 * math.ceil(3 * 4 * 5 / 16)


def test_documents_apart_are_refused():
    plain = one(DELTA)
    plain["model"]["documents"] = {"apart": 2}
    with pytest.raises(SpecError, match="earlier documents"):
        make(plain)


def test_a_convolution_that_is_not_short_is_refused():
    with pytest.raises(SpecError, match="convolution: expected a whole number from 0 to 64, got 65"):
        compiled(one({**DELTA, "convolution": 65}))
