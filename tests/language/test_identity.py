"""Two specs have one hash exactly when they build, or train, the same."""

from __future__ import annotations

import pytest
from spec_texts import TINY

from composer.language.load import loads
from composer.language.schema.identity import arch_hash, run_hash
from composer.language.schema.spec import Spec


def spec(*changes: tuple[str, str]) -> Spec:
    text = TINY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return loads(text)


SAME = [
    [("name: tiny", "name: other")],
    [("depth", "deep"), ("deep_attention", "depth_attention")],
    [("kv_heads: 2", "kv_heads: 2, head_dim: 16")],
    [("depth_attention, heads: 4", "depth_attention, kv_heads: 4, heads: 4")],
    [("experts: 16", "experts: 0.016k")],
    [("params: 400k", "params: 500k")],
    [("vocab: 32, context: 64", "tie_embeddings: true, context: 64, vocab: 32")],
    [("hidden: 64", "hidden: '${w}'"), ("caps:", "let: {w: 64}\ncaps:")],
]
TRAINED_OTHERWISE = [
    [("lr: 3e-3", "lr: 2e-3")],
    [("tokens: 1M", "tokens: 2M")],
    [("hops: 4", "hops: 3")],
    [("lr: 3e-3", "lr: 3e-3\n  precision: 32")],
    [("lr: 3e-3", "lr: 3e-3\n  checkpoint: {every: 1k}")],
]
BUILT_OTHERWISE = [
    [("width: 64", "width: 128")],
    [("context: 64", "context: 64, tie_embeddings: false")],
    [("recur: 4", "recur: 5")],
    [("recur: 4", "stack: 4")],
    [("[seq, depth, expert]", "[depth, seq, expert]")],
    [("[seq, depth, expert]", "[seq, {stack: 1, step: [depth]}, expert]")],
    [("[seq, depth, expert]", "[{parallel: [seq, depth]}, expert]")],
    [("[seq, depth, expert]", "[{parallel: [seq, depth], combine: gate}, expert]")],
    [("recur: 4", "recur: 4\n    inject: add")],
    [("kv_heads: 2", "kv_heads: 1")],
    [("active: 2", "active: 1")],
]


@pytest.mark.parametrize("changes", SAME)
def test_writing_it_otherwise_changes_no_hash(changes: list[tuple[str, str]]) -> None:
    assert arch_hash(spec(*changes)) == arch_hash(spec())
    assert run_hash(spec(*changes)) == run_hash(spec())


def test_the_seed_is_outside_both() -> None:
    assert run_hash(spec(("lr: 3e-3", "lr: 3e-3\n  seed: 9"))) == run_hash(spec())


@pytest.mark.parametrize("changes", TRAINED_OTHERWISE)
def test_training_otherwise_is_another_run_of_the_same_architecture(changes: list[tuple[str, str]]) -> None:
    assert arch_hash(spec(*changes)) == arch_hash(spec())
    assert run_hash(spec(*changes)) != run_hash(spec())


@pytest.mark.parametrize("changes", BUILT_OTHERWISE)
def test_building_otherwise_is_another_architecture(changes: list[tuple[str, str]]) -> None:
    assert arch_hash(spec(*changes)) != arch_hash(spec())
    assert run_hash(spec(*changes)) != run_hash(spec())


def test_uses_that_share_a_name_differ_from_uses_that_do_not() -> None:
    twice = spec(("[seq, depth, expert]", "[seq, depth, expert, depth]"))
    twin = "  twin: {type: depth_attention, heads: 4}\nstages:"
    apart = spec(("[seq, depth, expert]", "[seq, depth, expert, twin]"), ("stages:", twin))
    assert arch_hash(twice) != arch_hash(apart)


def test_hashes_are_short_and_stay_what_they_are() -> None:
    assert len(arch_hash(spec())) == len(run_hash(spec())) == 12
    assert arch_hash(spec()) == arch_hash(loads(TINY))
