"""Depth attention over the keys and values of sequence attention."""

import pytest
import torch
from cases import DEPTH, FFN, SEQ, tree
from models import check_other_steps, compiled, tokens_for
from strategies import make

from composer.language.schema.identity import arch_hash
from composer.settings.errors import SpecError

SHARED = {**DEPTH, "kv_from": "s", "rotary": False}


def spec(steps=3, depth=SHARED, step=("s", "d"), **blocks):
    return make(tree({"s": SEQ, "d": depth, **blocks}, {"recur": steps, "step": [*step]}))


def test_it_has_queries_alone():
    names = {name for name, _ in compiled(spec()).named_parameters() if ".d." in name}
    assert names == {"stages.0.step.1.d.query", "stages.0.step.1.d.out"}


def test_of_one_step_every_token_reads_its_own_value():
    model = compiled(spec(1))
    tokens, weights = tokens_for(model.spec), dict(model.named_parameters())
    seen = {}
    for at, name in ((0, "s"), (1, "d")):
        part = model.get_submodule(f"stages.0.step.{at}.{name}")
        part.register_forward_hook(lambda part, given, made, name=name: seen.update({name: (given[0], made)}))
    model(tokens)
    given, made = seen["s"][0], seen["d"][1]
    value = given @ weights["stages.0.step.0.s.value"].T
    out = value.repeat(1, 1, 3) @ weights["stages.0.step.1.d.out"].T
    torch.testing.assert_close(made[0] if isinstance(made, tuple) else made, out)


@pytest.mark.parametrize("steps", [1, 5])
def test_other_numbers_of_steps_are_those_of_a_model_that_has_them(steps):
    check_other_steps(spec(3), spec(steps), {"stages.0": steps})


def test_names_do_not_matter_but_which_block_is_read_does():
    blocks = {"s": SEQ, "r": SEQ, "d": SHARED}
    stage = {"recur": 2, "step": ["s", "r", "d"]}
    first = make(tree(blocks, stage))
    renamed = make(
        tree({"x": SEQ, "y": SEQ, "z": {**SHARED, "kv_from": "x"}}, {**stage, "step": ["x", "y", "z"]})
    )
    other = make(tree({**blocks, "d": {**SHARED, "kv_from": "r"}}, stage))
    assert arch_hash(first) == arch_hash(renamed) != arch_hash(other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": {**SHARED, "kv_from": "t"}}, r"blocks.d.kv_from: expected one of s, d, got 't'"),
        ({"depth": {**SHARED, "kv_from": "d"}}, r"expected a block of type sequence_attention, got 'd'"),
        ({"step": ("d", "s")}, r"expected a block that runs before d in each step that d is in, got 's'"),
        ({"depth": {**SHARED, "kv_heads": 3}}, r"blocks.d.kv_heads: expected 1, as s has, got 3"),
        ({"depth": {**SHARED, "head_dim": 4}}, r"blocks.d.head_dim: expected 6, as s has, got 4"),
        ({"depth": {**SHARED, "rotary": True}}, r"blocks.d.rotary: expected false, since keys are shared"),
        ({"depth": {**SHARED, "input": True}}, r"blocks.d.input: expected false"),
        (
            {"depth": {**SHARED, "kv_from": "f"}, "f": FFN, "step": ("s", "f", "d")},
            r"expected a block of type sequence_attention, got 'f'",
        ),
    ],
)
def test_what_cannot_be_shared_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        spec(**changes)
