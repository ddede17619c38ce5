"""All faults are told at once: those of two mistakes are the faults of the one and of the other."""

from __future__ import annotations

import copy
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from spec_texts import SPACE, TINY

from composer.language.load import loads, resolve_spec
from composer.language.parsing.yaml12 import read
from composer.language.space import Space
from composer.settings.errors import SpecError
from composer.settings.tree import Place, planted

SPEC: Any = read(TINY, "x").plain
SPACE_SPEC: Any = {
    **{key: SPEC[key] for key in ("schema", "blocks", "stages", "caps")},
    "model": {**SPEC["model"], "width": "${w}"},
    "train": {**SPEC["train"], "lr": {"float": [1e-4, 1e-2]}},
    **{key: read(SPACE, "x").plain[key] for key in ("name", "let", "search")},
}

# a path, and what stands there instead
WRONG_IN_A_SPEC: list[tuple[str, Any]] = [
    ("schema", 2),
    ("name", "a/b"),
    ("model.vocab", "few"),
    ("model.widht", 3),
    ("model.tie_embeddings", "no"),
    ("blocks.seq.kv_heads", 3),
    ("blocks.seq.qk_norm", "maybe"),
    ("blocks.seq.head_dim", 3),
    ("blocks.depth.span", "all"),
    ("blocks.expert.active", 20),
    ("blocks.expert.depth_code", "sine"),
    ("blocks.other", {"type": "feed_forward", "hidden": 8}),
    ("stages.0.stack", 2),
    ("stages.0.inject", "sum"),
    ("stages.0.step.1", "detph"),
    ("caps.params", "400 kB"),
    ("caps.train_memory", {"soft": "2GiB", "hard": "1GiB"}),
    ("caps.cache_bytes_per_token", {}),
    ("train.data.length", 65),
    ("train.schedule", {"decay": 0.5}),
    ("train.tokens", -3),
    ("train.lr", "fast"),
    ("train.betas", [0.9, 2]),
    ("train.seed", "${s}"),
    ("train.clip", {"choice": [0, 1]}),
]
WRONG_IN_A_SEARCH: list[tuple[str, Any]] = [
    ("search.objectives.0.maximize", "acuracy"),
    ("search.objectives.1", {"minimize": "params", "maximize": "loss"}),
    ("search.trials", 0),
    ("search.rungs", [1000, 10]),
    ("search.keep", 2),
    ("search.sampler", "bohb"),
    ("search.baselines", 3),
    ("search.baselines.0", "no.yaml"),
    ("search.lr_sweep", [1]),
    ("search.seeds", -1),
    ("train.seed", {"int": [0, 1]}),
    ("train.lr", {"float": [0, "x"]}),
    ("model.vocab", {"float": [8, 32]}),
    ("let.w", 3.5),
    ("caps.params", {"choice": [1]}),
]
# the names of all blocks are listed where an unknown one stands
DEPENDENT = {"blocks.other", "stages.0.step.1"}


def changed(tree: Any, path: str, value: Any) -> Any:
    """Give a tree with another value at a path; lists of the tree stand as tuples."""
    step, _, rest = path.partition(".")
    if isinstance(tree, tuple):
        items = list(tree)
        items[int(step)] = changed(items[int(step)], rest, value) if rest else value
        return tuple(items)
    return {**tree, step: changed(tree.get(step, {}), rest, value) if rest else value}


def faults(tree: Any, *changes: tuple[str, Any]) -> set[tuple[str, str]]:
    """Give path and message of each fault of a tree after some changes."""
    tree = copy.deepcopy(tree)
    for path, value in changes:
        tree = changed(tree, path, value)
    node = planted(tree, Place("x.yaml"))
    with pytest.raises(SpecError) as caught:
        Space(node) if "search" in tree else resolve_spec(node)
    return {(fault.path, fault.message) for fault in caught.value.faults}


def overlap(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)


@pytest.mark.parametrize(
    ("tree", "changes"), [(SPEC, WRONG_IN_A_SPEC), (SPACE_SPEC, WRONG_IN_A_SEARCH)], ids=["spec", "search"]
)
def test_faults_of_two_mistakes_are_those_of_each(tree: Any, changes: list[tuple[str, Any]]) -> None:
    alone = {path: faults(tree, (path, value)) for path, value in changes}
    assert [path for path, result in alone.items() if len(result) != 1] == []
    for one, other in combinations(changes, 2):
        if not overlap(one[0], other[0]) and {one[0], other[0]} != DEPENDENT:
            assert faults(tree, one, other) == alone[one[0]] | alone[other[0]], (one, other)


def test_all_mistakes_at_once_are_all_told() -> None:
    apart = [each for each in WRONG_IN_A_SPEC if each[0] not in ("model.widht", "blocks.other")]
    wanted = set().union(*(faults(SPEC, each) for each in apart))
    assert faults(SPEC, *apart) == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([("stages.0.recur", {"choice": [2, 4]})], ["stages.0.recur"]),
        ([("stages.0.recur", "${n}")], ["stages.0.recur"]),
        ([("stages.0.recur", "x"), ("stages.0.stack", 2)], ["stages.0", "stages.0.recur"]),
        ([("stages.0.inject", "x"), ("stages.0.stack", 2)], ["stages.0", "stages.0.inject"]),
        (
            [("blocks.seq.head_dim", "${n}"), ("blocks.seq.heads", 5)],
            ["blocks.seq.head_dim", "blocks.seq.kv_heads"],
        ),
        ([("stages.0.step", 3)], ["stages.0.step"]),
        ([("train.data", 3)], ["train.data"]),
        ([("model", 3)], ["model"]),
    ],
)
def test_no_fault_follows_from_another(changes: list[tuple[str, Any]], message: list[str]) -> None:
    assert sorted(path for path, _ in faults(SPEC, *changes)) == message


def test_faults_of_text_and_of_options_hide_no_others() -> None:
    text = TINY.replace("width: 64", "width: 0").replace(
        "lr: 3e-3", "lr: !x 3\n  lr: 2\n  8: 3\n  clip: !y z"
    )
    with pytest.raises(SpecError) as caught:
        loads(text, "x.yaml", ["model.vocab=[", "stages.9.recur=3", "train.tokens=-1"])
    assert sorted(fault.path for fault in caught.value.faults) == [
        "model.vocab",
        "model.width",
        "stages.9",
        "train",
        "train.clip",
        "train.lr",
        "train.lr",
        "train.tokens",
    ]
