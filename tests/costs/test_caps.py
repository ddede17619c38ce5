"""Caps bind at the exact cost, one below is refused, and the refusal says what weighs most."""

import json

import pytest
from cases import DEPTH, EXPERT, SEQ, tree
from strategies import make

from composer.cli.main import main
from composer.costs.caps import check_caps
from composer.costs.count import count
from composer.costs.units import amount
from composer.spec.errors import SpecError
from composer.spec.models import Caps

DATA = {"task": "hop", "length": 16, "symbols": 4, "hops": 1}
PLAIN = tree(
    # sizes at which no two terms weigh the same
    {"seq": {**SEQ, "kv_heads": 3}, "depth": DEPTH, "expert": EXPERT},
    {"recur": 3, "step": ["seq", "depth", "expert"]},
)
PLAIN["model"] |= {"vocab": 16, "context": 16}
TRAINED = {**PLAIN, "train": {"data": DATA, "tokens": 640, "batch_tokens": 32}}
COSTS = count(make(TRAINED))
HEAVIEST = {
    "params": "expert",
    "active_params": "seq",
    "flops_per_token": "seq",
    "train_flops": "seq",
    "train_memory": "activations",
    "cache_bytes_per_token": "keys and values",
    "depth_cache_bytes": "keys and values",
}
each_cap = pytest.mark.parametrize("cap", Caps.model_fields)


@each_cap
def test_a_cap_at_the_exact_cost_is_kept(cap):
    cost = COSTS.measure(cap)
    assert cost > 0
    assert check_caps(make({**TRAINED, "caps": {cap: cost}})).measure(cap) == cost


@each_cap
def test_a_cap_one_below_the_cost_is_refused_and_says_what_weighs_most(cap, tmp_path, capsys):
    cost = COSTS.measure(cap)
    over = {**TRAINED, "caps": {cap: cost - 1}}
    with pytest.raises(SpecError) as caught:
        check_caps(make(over))
    (fault,) = str(caught.value).splitlines()
    assert f"caps.{cap}: expected at most {amount(cap, cost - 1)}, got {amount(cap, cost)}, " in fault
    assert f"heaviest: {HEAVIEST[cap]} with " in fault
    path = tmp_path / "over.yaml"
    path.write_text(json.dumps(over))
    assert main(["check", str(path)]) == 1
    out, err = capsys.readouterr()
    assert (out, f"caps.{cap}: expected at most" in err) == ("", True)


def test_every_cap_that_is_exceeded_is_told():
    caps = {cap: COSTS.measure(cap) - 1 for cap in Caps.model_fields}
    with pytest.raises(SpecError) as caught:
        check_caps(make({**TRAINED, "caps": caps}))
    assert len(str(caught.value).splitlines()) == len(caps)


def test_a_cap_on_train_flops_needs_a_train_section(tmp_path, capsys):
    (path := tmp_path / "plain.yaml").write_text(json.dumps({**PLAIN, "caps": {"train_flops": 10**18}}))
    assert main(["check", str(path)]) == 1
    assert "caps.train_flops: expected no such cap without train" in capsys.readouterr().err
    trained = make({**TRAINED, "caps": {"train_flops": 10**18}})
    with pytest.raises(SpecError, match=r"caps.train_flops: expected a `train` section .*, got none"):
        check_caps(trained.model_copy(update={"train": None}))
