"""FLOPs and pairs against what really runs, counted by torch on the built module and by brute force."""

from unittest.mock import patch

import pytest
import torch
from cases import CASES, DEPTH, FFN, SEQ, tree
from flops import TWINS, counted, declared
from hypothesis import given, seed
from models import close, compiled, gradients, shipped, shortened, tokens_for
from samples import FULL, samples
from strategies import make, specs

import composer
from blocks.wiring.loss.cross_entropy import chunks
from composer.costs.counting.plan import count

NESTED = [
    [{"recur": 5, "step": ["d"]}],
    [{"stack": 4, "step": ["d", "f", "d"]}],
    [{"recur": 3, "step": ["d", {"stack": 2, "step": ["d", {"stack": 2, "step": ["d"]}]}, "d"]}],
    [{"recur": 2, "step": [{"recur": 3, "step": ["d"]}, "d"]}, {"stack": 2, "step": ["f"]}],
    [{"recur": 3, "step": [{"parallel": ["d", "d"]}]}],
]


def nested(span, stages):
    used = {"d": {**DEPTH, "span": span}, "f": FFN}
    return make(tree({name: used[name] for name in used if f"'{name}'" in str(stages)}, *stages))


# the weights of dreamer-small alone take ten seconds to make
LARGE = {"dreamer-small": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(name, marks=LARGE.get(name, ())) for name in shipped()])
def test_shipped_specs_cost_what_runs(name):
    spec = shortened(shipped()[name], 4)
    assert declared(spec, 1) == counted(spec, 1)


@pytest.mark.parametrize("case", CASES)
def test_each_option_costs_what_runs(case):
    spec = make(CASES[case])
    assert declared(spec) == counted(spec)


@pytest.mark.parametrize("by", ["expert_choice", "token"])
def test_adapters_of_steps_that_some_tokens_run_cost_what_runs(by):
    stage = {"recur": 2, "step": ["f"], "per_step": {"lora": 2}, "route": {"by": by}}
    spec = make(tree({"f": FFN}, stage, context=16))
    assert declared(spec) == counted(spec)


@pytest.mark.parametrize("tie", [True, False])
def test_a_head_by_chunks_costs_what_runs(tie, monkeypatch):
    """Its forward pass makes the products of the backward pass too, where gradients are wanted."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunks, "FEWEST", 4)
    spec = make(tree({"s": SEQ, "f": FFN}, {"recur": 2, "step": ["s", "f"]}, tie=tie))
    assert any(row.operation == "HeadLoss" for row in count(spec).by_operation)
    head = 2 * 2 * 8 * 10 * 11
    forward, backward = declared(spec)
    assert counted(spec) == (forward + 2 * head, backward - 2 * head)
    with torch.no_grad():
        assert counted(spec, trains=False) == (forward, 0)


@pytest.mark.parametrize("part", range(5) if FULL else (0, 4))
def test_generated_specs_cost_what_runs(part):
    room = 4 if part == 4 else 2

    # five times a hundred specs, so that workers share them
    @seed(part)
    @samples(100, derandomize=False, database=None)
    @given(specs(room=room, levels=room - 1))
    def check(spec):
        assert declared(spec, 1) == counted(spec, 1)

    check()


@pytest.mark.parametrize("stages", NESTED)
@pytest.mark.parametrize("span", ["inclusive", "exclusive"])
def test_the_twin_that_is_counted_computes_depth_attention(span, stages):
    from blocks.depth_attention import reference

    spec = nested(span, stages)
    plain = compiled(spec)
    with patch.multiple(reference, **TWINS):
        twin = compiled(spec)
    tokens = tokens_for(spec)
    close({"logits": twin(tokens)}, {"logits": plain(tokens)})
    close(gradients(twin, tokens), gradients(plain, tokens))


@pytest.mark.parametrize("context", [1, 2, 7, 8])
@pytest.mark.parametrize("window", [None, 1, 3, 7, 8, 30])
@pytest.mark.parametrize("sinks", [0, 1, 5])
def test_sequence_pairs_are_those_of_the_mask(context, window, sinks):
    sinks = sinks if window else 0
    block = {**SEQ, "window": window, "sinks": sinks} if window else SEQ
    spec = tree({"s": block}, {"recur": 2, "step": ["s"]})
    spec["model"]["context"] = context
    near = window or context
    pairs = sum(i - j < near or j < sinks for i in range(context) for j in range(i + 1))
    (row,) = (row for row in count(make(spec)).by_operation if row.place.endswith("attend"))
    assert row.share.forward * context == pytest.approx(2 * 4 * 3 * 6 * pairs)
    assert row.share.backward == 2 * row.share.forward
    # two steps, keys and values of one head of 6, in fp32
    kept = min(near + sinks, context)
    assert count(make(spec)).cache_bytes_per_token == 4 * 2 * -(-2 * 6 * kept // context)


@pytest.mark.parametrize("stages", NESTED)
@pytest.mark.parametrize("span", ["inclusive", "exclusive"])
def test_depth_pairs_are_the_slots_that_are_read(span, stages, monkeypatch):
    from blocks.depth_attention import reference

    spec = nested(span, stages)
    read, attend = [], reference.attend

    def spied(query, token, memory, reads):
        read.append(reads)
        return attend(query, token, memory, reads=reads)

    monkeypatch.setattr(reference, "attend", spied)
    composer.compile(spec)(tokens_for(spec, 1, 3))
    rows = [row for row in count(spec).by_operation if row.place.endswith("d.attend")]
    assert sum(row.executions for row in rows) == len(read)
    assert sum(row.share.forward for row in rows) == pytest.approx(4 * 3 * 6 * sum(read))
    assert sum(row.share.backward for row in rows) == pytest.approx(8 * 3 * 6 * sum(read))


@samples(40)
@given(specs())
def test_shares_sum_up_to_the_totals(spec):
    costs = count(spec)
    flops = costs.flops_per_token
    for shares in (costs.by_block.values(), [row.share for row in costs.by_operation]):
        assert sum(share.params for share in shares) == costs.params
        assert sum(share.active_params for share in shares) == costs.active_params
        assert sum(share.forward for share in shares) == pytest.approx(
            costs.flops_per_token.forward, abs=0.51
        )
        assert sum(share.backward for share in shares) == pytest.approx(flops.backward, abs=0.51)
    assert set(costs.by_block) == {"model", *spec.blocks}


def test_training_flops_are_at_the_length_that_is_trained():
    plain = tree({"s": SEQ}, {"recur": 2, "step": ["s"]})
    data = {"task": "hop", "length": 24, "symbols": 3, "hops": 1}
    train = {"data": data, "tokens": 1000, "batch_tokens": 100}
    model = {**plain["model"], "context": 32}
    long = make({**plain, "model": model, "train": train})
    short = make({**plain, "model": {**model, "context": 24}})
    per_token = sum(vars(count(short).flops_per_token).values())
    assert long.train.steps == 11
    assert count(long).train_flops == pytest.approx(per_token * 11 * 96, rel=1e-4)
    assert count(short).train_flops is None
