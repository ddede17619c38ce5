"""Caps bind at the exact cost, one below is refused, and the refusal says what weighs most."""

import json

import pytest
from cases import DEPTH, EXPERT, SEQ, tree
from strategies import make

from composer.cli.main import main
from composer.costs.base.units import amount
from composer.costs.counting.plan import count
from composer.costs.fitting.caps import check_caps, excesses, warnings
from composer.language.schema.caps import Caps
from composer.settings.errors import SpecError

DATA = {"task": "hop", "length": 16, "symbols": 4, "hops": 1}
PLAIN = tree(
    # sizes at which no two terms weigh the same
    {"seq": {**SEQ, "kv_heads": 3}, "depth": DEPTH, "expert": EXPERT},
    {"recur": 3, "step": ["seq", "depth", "expert"]},
)
PLAIN["model"] |= {"vocab": 16, "context": 16}
TRAINED = {**PLAIN, "train": {"data": DATA, "tokens": 640, "batch_tokens": 32}}
COSTS = count(make({**TRAINED, "caps": {"step_time": {"device": "a100", "hard": 1}}}))
# a cap on memory is kept to by recomputing, up to there
LEAST = count(make({**TRAINED, "caps": {"train_memory": 1}})).train_memory.total
HEAVIEST = {
    "params": "expert",
    "active_params": "seq",
    "flops_per_token": "seq",
    "train_flops": "seq",
    "train_memory": "recomputed",
    "cache_bytes_per_token": "what generation keeps",
    "depth_cache_bytes": "keys and values",
    "step_time": "the step",
}


def capped(cap, **limits):
    """The spec with one cap, as a number where it is only a hard limit of most caps."""
    if cap == "step_time":
        limits["device"] = "a100"
    whole = limits["hard"] if limits.keys() == {"hard"} else limits
    return {**TRAINED, "caps": {cap: whole}}


each_cap = pytest.mark.parametrize("cap", Caps.model_fields)


def cost_of(cap):
    return LEAST if cap == "train_memory" else COSTS.measure(cap)


def below(cost):
    if cost == LEAST:
        return cost // 2
    return cost - 1 if isinstance(cost, int) else cost * 0.999


@each_cap
def test_a_soft_limit_warns_and_refuses_nothing(cap, tmp_path, capsys):
    cost = cost_of(cap)
    kept, over = (make(capped(cap, soft=soft, hard=2 * cost)) for soft in (cost, below(cost)))
    assert warnings(kept, check_caps(kept)) == []
    (warning,) = warnings(over, check_caps(over))
    assert warning.startswith(f"caps.{cap}: the soft limit is {amount(cap, below(cost))}, this is ")
    assert excesses(over, count(over)) == []
    (path := tmp_path / "soft.yaml").write_text(json.dumps(capped(cap, soft=below(cost))))
    assert main(["check", str(path)]) == 0
    assert f"note: caps.{cap}: the soft limit is" in capsys.readouterr().out


@each_cap
def test_the_hard_one_of_two_limits_refuses(cap):
    cost = cost_of(cap)
    with pytest.raises(SpecError, match=f"caps.{cap}: expected at most"):
        check_caps(make(capped(cap, soft=below(below(cost)), hard=below(cost))))


@each_cap
def test_a_cap_at_the_exact_cost_is_kept(cap):
    cost = cost_of(cap)
    assert cost > 0
    costs = check_caps(make(capped(cap, hard=cost))).measure(cap)
    assert costs <= cost if cap == "train_memory" else costs == cost


@each_cap
def test_a_cap_one_below_the_cost_is_refused_and_says_what_weighs_most(cap, tmp_path, capsys):
    cost = cost_of(cap)
    less = below(cost)
    over = capped(cap, hard=less)
    with pytest.raises(SpecError) as caught:
        check_caps(make(over))
    (fault,) = str(caught.value).splitlines()
    assert f"caps.{cap}: expected at most {amount(cap, less)}, got {amount(cap, cost)}, " in fault
    assert f"heaviest: {HEAVIEST[cap]} with " in fault
    path = tmp_path / "over.yaml"
    path.write_text(json.dumps(over))
    assert main(["check", str(path)]) == 1
    out, err = capsys.readouterr()
    assert (out, f"caps.{cap}: expected at most" in err) == ("", True)


def test_every_cap_that_is_exceeded_is_told():
    caps = {}
    for cap in Caps.model_fields:
        caps |= capped(cap, hard=below(cost_of(cap)))["caps"]
    with pytest.raises(SpecError) as caught:
        check_caps(make({**TRAINED, "caps": caps}))
    assert len(str(caught.value).splitlines()) == len(caps)


def test_memory_may_be_stated_for_a_batch_where_nothing_trains():
    one, four = ({"hard": 10**12, "batch_tokens": n} for n in (16, 64))
    costs = [count(make({**PLAIN, "caps": {"train_memory": cap}})).train_memory for cap in (one, four)]
    assert [memory.tokens for memory in costs] == [16, 64]
    assert costs[1].saved == 4 * costs[0].saved
    with pytest.raises(ValueError, match=r"batch_tokens: expected no such key, since train sets the micro"):
        make({**TRAINED, "caps": {"train_memory": one}})


def test_a_device_without_limits_is_estimated_for_and_caps_nothing():
    plain = make({**TRAINED, "caps": {"step_time": {"device": "a100"}}})
    assert count(plain).step_time == COSTS.step_time
    assert not [*excesses(plain, COSTS), *warnings(plain, COSTS)]
    with pytest.raises(SpecError, match="step_time: expected soft at most hard"):
        make({**TRAINED, "caps": {"step_time": {"device": "a100", "soft": 2, "hard": 1}}})


def test_a_device_nobody_knows_is_refused_by_name():
    with pytest.raises(
        SpecError, match=r"caps.step_time.device: expected a device, one of h100, .*got 'h10'"
    ):
        count(make({**PLAIN, "caps": {"step_time": {"device": "h10", "hard": "5ms"}}}))


@pytest.mark.parametrize(
    ("cap", "message"),
    [
        ({}, "caps.params: expected soft, hard or both, got neither"),
        ({"soft": 6, "hard": 5}, "caps.params: expected soft at most hard"),
        ({"sotf": 6}, "caps.params.sotf: expected a known key, got sotf .did you mean soft"),
        ({"soft": "x"}, "caps.params.soft: expected a whole number above 0"),
        ({"soft": 6, "device": "h100"}, "caps.params.device: expected a known key"),
    ],
)
def test_what_is_wrong_inside_a_cap_is_told_at_its_place(cap, message):
    with pytest.raises(SpecError, match=message):
        make({**PLAIN, "caps": {"params": cap}})


def test_a_cap_on_train_flops_needs_a_train_section(tmp_path, capsys):
    (path := tmp_path / "plain.yaml").write_text(json.dumps({**PLAIN, "caps": {"train_flops": 10**18}}))
    assert main(["check", str(path)]) == 1
    assert "caps.train_flops: expected no such cap without train" in capsys.readouterr().err
    trained = make({**TRAINED, "caps": {"train_flops": 10**18}})
    with pytest.raises(SpecError, match=r"caps.train_flops: expected a `train` section .*, got none"):
        check_caps(trained.model_copy(update={"train": None}))
