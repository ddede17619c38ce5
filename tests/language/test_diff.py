"""Differences between specs are told in words, none is missed, and equal specs have none."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

import pytest
from data_values import DATA, other_fields
from hypothesis import given
from hypothesis import strategies as st
from samples import samples
from spec_texts import TINY
from strategies import trees

from blocks.base.config import Config
from blocks.base.wiring import Owner
from blocks.find import block_types
from composer.data.find import data_tasks
from composer.language.description.align import align, block_pairs
from composer.language.description.diff import Difference, differences, relation
from composer.language.description.format_spec import value_words
from composer.language.load import loads
from composer.language.schema import spec
from composer.language.schema.identity import arch_hash
from composer.language.schema.spec import Spec
from composer.testing.examples import examples, other_values, wiring_examples

BASE: dict[str, Any] = {
    "schema": 1,
    "name": "base",
    "model": {"width": 32, "vocab": 300, "context": 128},
    "blocks": {
        "sequence_attention": {"type": "sequence_attention", "heads": 4, "window": 4},
        "depth_attention": {"type": "depth_attention", "heads": 4},
        "expert_attention": {"type": "expert_attention", "experts": 8, "active": 2, "hidden": 24},
        "feed_forward": {"type": "feed_forward", "hidden": 40},
    },
    "stages": [
        {
            "recur": 3,
            "step": [
                "sequence_attention",
                {"parallel": ["depth_attention", "expert_attention"]},
                {"stack": 2, "step": ["feed_forward", {"use": "feed_forward"}]},
            ],
        }
    ],
    "train": {"data": {"task": "hop"}, "tokens": 10_000_000, "batch_tokens": 4800},
}


def wiring(owner: Owner) -> dict[str, Any]:
    """A value other than the default for each key of wiring, None where there is no other."""
    return {key: values[1] if values[1:] else None for key, values in wiring_examples(owner).items()}


OTHER: dict[str, dict[str, Any]] = {  # a value other than BASE's for every field of the language
    "Model": {"width": 64, "vocab": 301, "context": 129, "tie_embeddings": False, **wiring("model")},
    "Stage": {"recur": 4, "stack": 3, "step": ["sequence_attention"], "at": None, **wiring("stage")},
    "BlockUse": {"use": "sequence_attention", "at": "::2", **wiring("use")},
    "Parallel": {"parallel": ["expert_attention", "depth_attention"], "at": "::2", **wiring("parallel")},
    "SequenceAttention": {
        "type": "feed_forward",
        "heads": 2,
        "kv_heads": 2,
        "head_dim": 16,
        "rope": False,
        "rope_base": 500.0,
        "window": 8,
        "qk_norm": True,
    },
    "DepthAttention": {
        "type": "feed_forward",
        "heads": 2,
        "kv_heads": 2,
        "head_dim": 16,
        "rotary": False,
        "span": "exclusive",
        "kv_from": "sequence_attention",
    },
    "ExpertAttention": {
        "type": "feed_forward",
        "experts": 9,
        "active": 3,
        "hidden": 25,
        "depth_code": "bias",
        "balance_rate": 0.5,
    },
    "FeedForward": {
        "type": "expert_attention",
        "hidden": 41,
        "activation": "gelu",
        "kv_for": "sequence_attention",
    },
    "Train": {
        "data": DATA["text"],
        "tokens": 9_999_999,
        "batch_tokens": 2400,
        "lr": 0.004,
        "schedule": {"warmup": 0.1, "stable": 0.7, "decay": 0.2},
        "weight_decay": 0.2,
        "betas": [0.9, 0.99],
        "clip": 0.0,
        "ema": 0.5,
        "callbacks": ["lightning.pytorch.callbacks.Timer"],
        "optimizer": "muon",
        "precision": "bf16-mixed",
        "accumulate": 5,
        "seed": 7,
        "eval": {"every": 1},
        "checkpoint": {"every": 1},
        "devices": 2,
        "strategy": "ddp",
    },
    "Eval": {"every": 400_000, "tokens": 60_000},
    "Checkpoint": {"every": 400_000},
    "Hop": {"task": None, "length": 40, "symbols": 5, "hops": 3},
    "Text": {
        "task": None,
        "length": 20,
        "path": "other",
        "glob": "*.md",
        "field": "text",
        "eval_fraction": 0.1,
    },
    "Tokens": {
        "task": None,
        "length": 20,
        "path": "other",
        "sources": {"a": 1.0, "b": 2.0},
        "documents": "apart",
        "eval_sets": ["test"],
    },
}


def take_in(kind: str, config: type[Config]) -> None:
    """Add a block from elsewhere to BASE, and other values of its fields to OTHER, from its examples."""
    plain, *others = examples(config).values()
    BASE["blocks"][kind] = plain
    BASE["stages"][0]["step"].append(kind)
    fields: dict[str, Any] = {field.alias or name: None for name, field in config.model_fields.items()}
    for other in others:
        fields |= {key: value for key, value in other.items() if value != plain.get(key)}
    OTHER[config.__name__] = {**fields, "type": "feed_forward"}


def fill_in(config: type[Config]) -> None:
    """Add values for fields of a config that OTHER does not have."""
    OTHER[config.__name__] = {**dict(other_values(config)), **OTHER[config.__name__]}


fill_in(spec.Model)
for _kind, _config in block_types().items():
    if _kind in BASE["blocks"]:
        fill_in(_config)
    else:
        take_in(_kind, _config)
for _name, _task in data_tasks().items():
    if _task.__name__ not in OTHER:
        OTHER[_task.__name__] = {"task": None, **dict(other_fields(_task, DATA[_name], BASE["model"]))}
WORDS = {  # of fields whose change is told under another word than their own
    "recur": "shared weights",
    "stack": "weights of their own",
    "width": "width",
    "type": "->",
    "use": "replaced by",
}


def at(tree: dict[str, Any], path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree.setdefault(step, {}) if isinstance(tree, dict) else tree[step]
    return tree


def cases() -> list[tuple[str, tuple[Any, ...], str, Any]]:
    places: dict[type[Config], tuple[Any, ...]] = {
        spec.Model: ("model",),
        spec.Stage: ("stages", 0),
        spec.BlockUse: ("stages", 0, "step", 2, "step", 1),
        spec.Parallel: ("stages", 0, "step", 1),
        spec.Train: ("train",),
        spec.Eval: ("train", "eval"),
        spec.Checkpoint: ("train", "checkpoint"),
        **{config: ("blocks", name) for name, config in block_types().items()},
        **dict.fromkeys(data_tasks().values(), ("train", "data")),
    }
    results = []
    for config, path in places.items():
        given = OTHER[config.__name__]
        assert given.keys() == {f.alias or n for n, f in config.model_fields.items()}, config
        # documents take data with a token between them
        those = {key: value for key, value in given.items() if value is not None and key != "documents"}
        results += [(config.__name__, path, key, value) for key, value in those.items()]
    capped = {"step_time": {"device": "h100", "hard": "1s"}}
    results += [("Caps", ("caps",), key, capped.get(key, 10**16)) for key in spec.Caps.model_fields]
    results.append(("Schedule", ("train", "schedule"), "shape", "sqrt"))
    schedule = {"warmup": ("stable", 0.7), "stable": ("decay", 0.15), "decay": ("warmup", 0.1)}
    assert schedule.keys() | {"shape"} == spec.Schedule.model_fields.keys()
    for key, (other, share) in schedule.items():
        values = {"warmup": 0.05, "stable": 0.75, "decay": 0.2, other: share}
        values[key] = round(1 - sum(values[name] for name in values if name != key), 6)
        results.append(("Schedule", ("train",), "schedule", values))
    return results


def changed(path: tuple[Any, ...], key: str, value: Any, kind: str) -> tuple[Spec, Spec]:
    before = deepcopy(BASE)
    tasks = {config.__name__: name for name, config in data_tasks().items()}
    if kind in tasks:
        before["train"]["data"] = dict(DATA[tasks[kind]])
    after = deepcopy(before)
    where = at(after, path)
    where[key] = value
    if key == "stack" and kind == "Stage":
        del where["recur"]
    if key == "type":
        where.clear()
        where.update(BASE["blocks"][value])
    # options that need another
    where |= {"rotary": False} if key == "kv_from" else {}
    after["model"] |= {"loss": {"exit": 1.0}} if key == "exit" else {}
    for tree in (before, after):
        if value == {"exit": 0.5}:
            tree["model"].setdefault("loss", {"exit": 1.0})
            tree["stages"][0]["exit"] = {"gate": "learned"}
        if key == "kv_for":
            tree["blocks"]["sequence_attention"]["depth"] = "joint"
            tree["stages"][0]["step"] = [*tree["blocks"]]
        tree["stages"] += [{"stack": 1, "step": ["depth_attention"]}] if key == "depth_scope" else []
        tree["stages"][0] |= {"inject": "add"} if key in ("start", "backprop") else {}
        if key == "route":
            tree["stages"][0]["step"] = ["feed_forward"]
            tree["blocks"] = {"feed_forward": tree["blocks"]["feed_forward"]}
    if key == "step":
        after["blocks"] = {"sequence_attention": after["blocks"]["sequence_attention"]}
    return loads(json.dumps(before)), loads(json.dumps(after))


@pytest.mark.parametrize(("kind", "path", "key", "value"), cases(), ids=str)
def test_the_change_of_any_field_is_told_by_its_name(
    kind: str, path: tuple[Any, ...], key: str, value: Any
) -> None:
    a, b = changed(path, key, value, kind)
    for one, two in ((a, b), (b, a)):
        lines = [str(each) for each in differences(one, two)]
        assert any(WORDS.get(key, key) in words for words in lines), lines
        kinds = {each.kind for each in differences(one, two)}
        expected = {"train": "training", "caps": "caps"}.get(path[0], "architecture")
        assert kinds == {expected}


def test_every_section_of_a_spec_is_compared() -> None:
    assert set(Spec.model_fields) == {"schema_", "name", "model", "blocks", "stages", "caps", "train"}
    base, named = loads(json.dumps(BASE)), loads(json.dumps({**BASE, "name": "other"}))
    assert [str(each) for each in differences(base, named)] == ["name: base -> other"]
    untrained = loads(json.dumps({key: value for key, value in BASE.items() if key != "train"}))
    assert [str(each) for each in differences(base, untrained)] == ["train removed"]


@samples(60)
@given(trees(trained=True), trees(trained=True))
def test_specs_differ_in_architecture_exactly_when_words_say_so(
    one: dict[str, Any], two: dict[str, Any]
) -> None:
    a, b = loads(json.dumps(one)), loads(json.dumps(two))
    assert list(differences(a, a)) == list(differences(b, b)) == []
    assert relation(a, a) == "the same spec"
    kinds = {each.kind for each in differences(a, b)}
    assert ("architecture" in kinds) == (arch_hash(a) != arch_hash(b))
    assert ("caps" in kinds) == (a.caps != b.caps)
    assert ("training" in kinds) == (a.train != b.train)
    assert relation(a, b).startswith("different") == ("architecture" in kinds)


def diff_lines(*changes: tuple[str, str]) -> list[str]:
    text = TINY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return [str(each) for each in differences(loads(TINY), loads(text))]


MLP = ("stages:", "  mlp: {type: feed_forward, hidden: 96}\nstages:")
NO_DEPTH = ("  depth: {type: depth_attention, heads: 4}\n", "")
NO_EXPERT = ("  expert: {type: expert_attention, experts: 16, active: 2, hidden: 64}\n", "")
WIDER = "head_dim 16 -> 32 by default"
DEEP = "deep: {type: depth_attention, heads: 2}"
STEP = "[seq, depth, expert]"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([(STEP, "[seq, expert]"), NO_DEPTH], ["stages.0.step: depth removed between seq and expert"]),
        (
            [(STEP, "[seq, depth, expert, mlp]"), MLP],
            ["stages.0.step: mlp (feed_forward with hidden 96) added after expert"],
        ),
        ([(STEP, "[depth, seq, expert]")], ["stages.0.step: order seq, depth, expert -> depth, seq, expert"]),
        (
            [(STEP, "[seq, depth, mlp]"), MLP, NO_EXPERT],
            ["stages.0.step: expert replaced by mlp (feed_forward with hidden 96)"],
        ),
        (
            [(STEP, "[{parallel: [seq, depth], combine: gate}, expert]")],
            ["stages.0.step: seq, depth one after the other -> seq and depth in parallel (gate)"],
        ),
        (
            [("recur: 4", "stack: 4")],
            ["stages.0: 4 steps with shared weights -> 4 layers with weights of their own"],
        ),
        ([("recur: 4", "recur: 6")], ["stages.0: 4 -> 6 steps with shared weights"]),
        (
            [("recur: 4", "recur: 2"), (f"step: {STEP}", f"step: [{{recur: 4, step: {STEP}}}]")],
            ["stages.0: put inside 2 steps with shared weights"],
        ),
        (
            [("caps:", "  - stack: 2\n    step: [seq]\ncaps:")],
            ["stages.1: added after stages.0: 2 layers of [seq]"],
        ),
        ([("hidden: 64", "hidden: 56")], ["expert: hidden 64 -> 56"]),
        (
            [("width: 64", "width: 128")],
            ["model: width 64 -> 128", f"seq: {WIDER}", f"depth: {WIDER}"],
        ),
        ([("lr: 3e-3", "lr: 5e-3")], ["train.lr 3e-3 -> 5e-3"]),
        ([("params: 400k", "params: 1M")], ["caps.params 400k -> 1M"]),
        ([("depth:", "deep:"), (STEP, "[seq, deep, expert]")], ["blocks.depth: is called deep"]),
        (
            [("depth: {type: depth_attention, heads: 4}", DEEP), ("[seq, depth", "[seq, deep")],
            [f"depth: heads 4 -> 2, kv_heads 4 -> 2 by default, {WIDER}", "blocks.depth: is called deep"],
        ),
        ([("kv_heads: 2", "kv_heads: 2, head_dim: 16")], []),
    ],
)  # fmt: skip
def test_differences_are_told_as_one_would_say_them(changes: list[tuple[str, str]], words: list[str]) -> None:
    assert diff_lines(*changes) == words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([], "the same spec"),
        ([("name: tiny", "name: other")], "the same architecture, trained alike"),
        ([("lr: 3e-3", "lr: 3e-3\n  seed: 4")], "the same architecture, trained alike but for the seed"),
        ([("lr: 3e-3", "lr: 1e-3")], "the same architecture, differing only in training"),
        ([("recur: 4", "recur: 5")], "different architectures, trained alike"),
        (
            [("recur: 4", "recur: 5"), ("lr: 3e-3", "lr: 1e-3")],
            "different architectures, also trained otherwise",
        ),
    ],
)
def test_the_relation_of_two_specs(changes: list[tuple[str, str]], words: str) -> None:
    text = TINY
    for old, new in changes:
        text = text.replace(old, new)
    assert relation(loads(TINY), loads(text)) == words


def test_blocks_that_swapped_names_are_the_same_architecture() -> None:
    names = {"seq": "depth", "depth": "seq"}
    words = re.split(r"\b(seq|depth)\b", TINY)
    swapped = loads("".join(names.get(word, word) for word in words))
    assert block_pairs(loads(TINY), swapped) == {"seq": "depth", "depth": "seq", "expert": "expert"}
    got = list(differences(loads(TINY), swapped))
    assert got == [
        Difference("names", "blocks.seq", "is called depth"),
        Difference("names", "blocks.depth", "is called seq"),
    ]


@given(st.lists(st.integers(0, 3), max_size=6), st.lists(st.integers(0, 3), max_size=6))
def test_an_alignment_loses_nothing_and_keeps_the_order(one: list[int], two: list[int]) -> None:
    def cost(before: tuple[int, ...], after: tuple[int, ...]) -> float:
        return float(before != after) * 1.5 if len(before) == len(after) else float("inf")

    matches = align(one, two, cost, 3)
    assert [item for match in matches for item in match.before] == one
    assert [item for match in matches for item in match.after] == two
    if one == two:
        assert all(match.before == match.after for match in matches)


@given(st.one_of(st.integers(0, 10**18), st.floats(0, 1e6), st.booleans(), st.none()))
def test_a_value_in_words_loses_nothing(value: Any) -> None:
    words = value_words(value)
    if value is None or isinstance(value, bool):
        assert words == {None: "none", True: "true", False: "false"}[value]
    elif isinstance(value, float):
        assert float(words) == value
    else:
        from blocks.base.fields import parse_quantity

        assert parse_quantity(words) == value
