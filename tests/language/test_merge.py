"""Files extend files; options lie on top; kinds that differ replace whole."""

from __future__ import annotations

from typing import Any

import pytest
from spec_texts import TINY

from composer.language.load import load, read_tree
from composer.language.parsing.merge import merge, override
from composer.language.parsing.yaml12 import read
from composer.settings.errors import SpecError


def merged(below: str, above: str) -> Any:
    return merge(read(below, "below"), read(above, "above")).plain


@pytest.mark.parametrize(
    ("below", "above", "result"),
    [
        ("{a: {b: 1, c: 2}}", "{a: {c: 3, d: 4}}", {"a": {"b": 1, "c": 3, "d": 4}}),
        ("{a: [1, 2]}", "{a: [3]}", {"a": (3,)}),
        ("{a: 1, b: 2}", "{a: null}", {"b": 2}),
        ("{b: 2}", "{a: null}", {"a": None, "b": 2}),
        ("{a: {b: 1}}", "{a: 2}", {"a": 2}),
        ("{a: {type: x, b: 1}}", "{a: {type: x, c: 2}}", {"a": {"type": "x", "b": 1, "c": 2}}),
        ("{a: {type: x, b: 1}}", "{a: {c: 2}}", {"a": {"type": "x", "b": 1, "c": 2}}),
        ("{a: {type: x, b: 1}}", "{a: {type: y, c: 2}}", {"a": {"type": "y", "c": 2}}),
        ("{a: {task: x, b: 1}}", "{a: {task: y}}", {"a": {"task": "y"}}),
        ("{a: {choice: [1]}}", "{a: {int: [1, 2]}}", {"a": {"int": (1, 2)}}),
        ("{a: {choice: {p: 1}}}", "{a: {choice: {q: 1}}}", {"a": {"choice": {"q": 1}}}),
        ("{a: {int: [1, 9], step: 2}}", "{a: {int: [1, 5]}}", {"a": {"int": (1, 5), "step": 2}}),
        ("{a: {b: 1}}", "{a: {choice: [1]}}", {"a": {"choice": (1,)}}),
    ],
)
def test_mappings_merge_when_they_are_of_one_kind(below: str, above: str, result: Any) -> None:
    assert merged(below, above) == result


@pytest.mark.parametrize(
    ("option", "result"),
    [
        ("a.b=2", {"a": {"b": 2}, "l": ({"x": 1}, 5), "c": {"choice": (1, 2)}}),
        ("n.m.o=2", {"a": {"b": 1}, "l": ({"x": 1}, 5), "c": {"choice": (1, 2)}, "n": {"m": {"o": 2}}}),
        ("l.0.x=2", {"a": {"b": 1}, "l": ({"x": 2}, 5), "c": {"choice": (1, 2)}}),
        ("l=[7]", {"a": {"b": 1}, "l": (7,), "c": {"choice": (1, 2)}}),
        ("a={d: 3e-3}", {"a": {"b": 1, "d": 0.003}, "l": ({"x": 1}, 5), "c": {"choice": (1, 2)}}),
        ("a.b=null", {"a": {}, "l": ({"x": 1}, 5), "c": {"choice": (1, 2)}}),
        ("c=4", {"a": {"b": 1}, "l": ({"x": 1}, 5), "c": 4}),
        ("c.choice.1=4", {"a": {"b": 1}, "l": ({"x": 1}, 5), "c": {"choice": (1, 4)}}),
        ("c.int=[1, 2]", {"a": {"b": 1}, "l": ({"x": 1}, 5), "c": {"int": (1, 2)}}),
    ],
)
def test_an_option_sets_one_value(option: str, result: Any) -> None:
    assert override(read("{a: {b: 1}, l: [{x: 1}, 5], c: {choice: [1, 2]}}", "x"), option).plain == result


def test_later_files_win_and_paths_are_relative_to_the_file(tmp_path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "tiny.yaml").write_text(TINY)
    (tmp_path / "base" / "wide.yaml").write_text("model: {width: 128}\n")
    (tmp_path / "base" / "both.yaml").write_text("extends: [tiny.yaml, wide.yaml]\nname: both\n")
    (tmp_path / "top.yaml").write_text("extends: base/both.yaml\ntrain: {lr: 1e-3}\n")
    spec = load(tmp_path / "top.yaml", ["train.tokens=2M", "train.tokens=3M"])
    assert spec.train is not None
    assert (spec.name, spec.model.width, spec.train.lr, spec.train.tokens) == ("both", 128, 0.001, 3_000_000)
    assert [spec.origin("train", key).rpartition("/")[2] for key in ("lr", "tokens", "clip")] == [
        "top.yaml:2",
        "--set train.tokens=3M",
        "default",
    ]


def test_a_parents_let_sees_the_childs_values(tmp_path) -> None:
    parent = TINY.replace("width: 64", 'width: "${w}"').replace("hidden: 64", 'hidden: "${w // 2}"')
    (tmp_path / "parent.yaml").write_text(parent + "let: {w: 64}\n")
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\nlet: {w: 96}\n")
    spec = load(tmp_path / "child.yaml")
    assert (spec.model.width, spec.blocks["expert"].model_dump()["hidden"]) == (96, 48)
    assert spec.origin("model", "width").endswith("parent.yaml:3 = ${w}")


def test_a_circle_of_files_is_refused_at_the_place_that_closes_it(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("name: b\nextends: a.yaml\n")
    with pytest.raises(
        SpecError, match=r"b\.yaml:2:10  extends: expected a file that does not extend itself"
    ):
        read_tree(tmp_path / "a.yaml")
