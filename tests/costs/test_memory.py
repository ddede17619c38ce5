"""Bytes against what is really there: saved tensors, caches, slots, weights."""

import gc
import weakref

import pytest
import torch
from cases import CASES, DEPTH, DREAMER, FFN, SEQ, tree
from hypothesis import given
from models import check_saved, shipped, shortened, tokens_for
from samples import samples
from strategies import make, specs

import composer
from blocks.ir.costs import CostContext
from blocks.kernels import slot_memory
from blocks.sequence_attention import reference
from blocks.wiring.loss.cross_entropy import chunks
from composer.costs.counting.plan import count
from composer.costs.memory.replay import moments
from composer.graph.compile import compile_graph


@pytest.mark.parametrize("name", [name for name in shipped() if name != "dreamer-small"])
def test_shipped_specs_keep_what_they_declare(name):
    check_saved(composer.compile(shortened(shipped()[name], 12)))


@pytest.mark.parametrize("case", CASES)
def test_each_option_keeps_what_it_declares(case):
    check_saved(composer.compile(make(CASES[case])))


@pytest.mark.parametrize("tie", [True, False])
def test_a_head_by_chunks_keeps_what_it_declares(tie, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "FEWEST", 4)
    spec = make(tree({"f": FFN}, {"recur": 2, "step": ["f"]}, tie=tie))
    check_saved(composer.compile(spec))
    saved = compile_graph(spec).node("loss").op.saved(CostContext(8))
    assert (saved.inputs, saved.extra, saved.once) == ((), 4 * 10, 4 * 10 * 11)


@samples(60)
@given(specs(room=4))
def test_generated_specs_keep_what_they_declare(spec):
    check_saved(composer.compile(spec))


NESTED = [
    [{"recur": 5, "step": ["d"]}],
    [{"recur": 2, "step": ["d"]}, {"recur": 4, "step": ["d", "e"]}, {"stack": 1, "step": ["e"]}],
    [{"recur": 3, "step": ["d", {"recur": 2, "step": ["d", "e"]}, {"recur": 4, "step": ["e"]}, "d"]}],
    [{"recur": 2, "step": [{"stack": 3, "step": ["d", "e"]}]}],
]


def nested(stages):
    wide = {**DEPTH, "kv_heads": 3, "rotary": False, "head_dim": 5}
    return make(tree({"d": DEPTH, **({"e": wide} if "'e'" in str(stages) else {})}, *stages))


@pytest.fixture
def slots(monkeypatch):
    """Follow the bytes of slots: all that were made, and the most that were alive at once."""
    alive, result = weakref.WeakSet(), {"made": 0, "most": 0}
    write = slot_memory.SlotMemory.write

    def size(memory):
        return memory.keys.nbytes + memory.values.nbytes

    def spied(self, slot, key, value):
        write(self, slot, key, value)
        if self not in alive:
            alive.add(self)
            result["made"] += size(self)
        result["most"] = max(result["most"], sum(map(size, alive)))

    monkeypatch.setattr(slot_memory.SlotMemory, "write", spied)
    return result


@pytest.mark.parametrize("stages", NESTED)
def test_depth_cache_is_the_most_slots_alive_at_once(slots, stages):
    spec = nested(stages)
    gc.collect()
    with torch.no_grad():
        composer.compile(spec)(tokens_for(spec, 2, 5))
    assert slots["most"] == count(spec).depth_cache_bytes * 10


def last(memory):
    """What is alive when the weights are updated."""
    return moments(memory._graph, memory._batch)[-1].terms


@pytest.mark.parametrize("stages", NESTED)
def test_training_keeps_every_slot_and_its_gradient(slots, stages):
    spec = nested(stages)
    model, tokens = composer.compile(spec), tokens_for(spec, 1)
    model.loss(tokens, tokens)
    memory = count(spec).train_memory
    assert memory.tokens == tokens.numel()
    assert last(memory)["depth_slots"] == 2 * slots["made"]


@pytest.mark.parametrize("name", [*shipped()])
def test_the_sequence_cache_is_every_key_and_value(name, monkeypatch):
    spec = shortened(shipped()[name], 6)
    sizes, attend = [], reference._sdpa

    def spied(q, k, v, mask):
        sizes.append(k.nbytes + v.nbytes)
        return attend(q, k, v, mask)

    monkeypatch.setattr(reference, "_sdpa", spied)
    with torch.no_grad():
        composer.compile(spec)(tokens_for(spec, 1))
    assert sum(sizes) == count(spec).cache_bytes_per_token * 6


def test_weights_gradients_and_moments_are_fp32():
    spec = make(DREAMER)
    model = composer.compile(spec)
    held = sum(parameter.nbytes for parameter in model.parameters())
    memory = count(spec).train_memory
    left = last(memory)
    assert (left["weights"], left["gradients"], left["optimizer"]) == (held, held, 2 * held)
    assert memory.weights == held


def test_prepared_weights_are_those_that_are_joined():
    spec = make(tree({"s": SEQ, "f": FFN}, {"stack": 3, "step": ["s", "f"]}))
    joined = 3 * (10 * (18 + 6 + 6) + 10 * 9 * 2)
    assert count(spec).train_memory.terms["prepared"] == 4 * joined


def train(**changes):
    data = {"task": "hop", "length": 24, "symbols": 3, "hops": 1}
    plain = tree({"s": SEQ, "d": DEPTH}, {"recur": 2, "step": ["s", "d"]})
    section = {"data": data, "tokens": 1000, "batch_tokens": 240, **changes}
    return make({**plain, "model": {**plain["model"], "context": 32}, "train": section})


def test_memory_is_that_of_one_micro_batch_at_the_length_that_is_trained():
    whole, half = (count(train(accumulate=n)).train_memory for n in (1, 2))
    assert (whole.tokens, half.tokens) == (240, 120)
    assert whole.saved == 2 * half.saved
    assert whole.terms["depth_slots"] == 2 * half.terms["depth_slots"]
    assert whole.weights == half.weights


def test_memory_says_when_it_is_at_its_peak():
    assert count(train()).train_memory.moment == "backward of stages.0 step 1: 1.d.attend"


def test_half_precision_halves_what_blocks_keep():
    full, half = (count(train(precision=precision)) for precision in (32, "bf16-mixed"))
    assert half.cache_bytes_per_token * 2 == full.cache_bytes_per_token
    assert half.depth_cache_bytes * 2 == full.depth_cache_bytes
    slots = [last(costs.train_memory)["depth_slots"] for costs in (half, full)]
    assert slots[0] * 8 == slots[1] * 6
    assert full.train_memory.saved / 2 < half.train_memory.saved < full.train_memory.saved
