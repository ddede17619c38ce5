"""Scalars follow YAML 1.2's core schema; anchors and merge keys work; places are those of the file."""

from __future__ import annotations

import math

import pytest

from composer.language.parsing.yaml12 import read, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-3", 0.003), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-1.5e+2", -150.0),
        ("685.230_15", "685.230_15"),
        ("12", 12), ("+7", 7), ("-0", 0), ("007", 7), ("0o17", 15), ("0x1F", 31),
        ("0b1", "0b1"), ("1_000", "1_000"),
        ("1:3", "1:3"), ("190:20:30", "190:20:30"), ("no", "no"), ("yes", "yes"), ("on", "on"), ("y", "y"),
        ("true", True), ("True", True), ("FALSE", False), ("tRue", "tRue"),
        ("null", None), ("~", None), ("", None), ("nUll", "nUll"),
        (".inf", math.inf), ("-.INF", -math.inf), ("2001-12-14", "2001-12-14"),
        ("=", "="), ("1e", "1e"), ("٣", "٣"),
    ],
)  # fmt: skip
def test_scalars_follow_the_core_schema(text: str, value: object) -> None:
    result = scalar(text)
    assert (result, type(result)) == (value, type(value))
    assert read(f"- {text}", "x").plain == (value,)


def test_not_a_number() -> None:
    assert math.isnan(scalar(".nan"))  # type: ignore[arg-type]


def test_quoted_and_tagged_scalars_are_text() -> None:
    assert read("['3', \"true\", !!str 3, ! null]", "x").plain == ("3", "true", "3", "null")


def test_anchors_and_merge_keys() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: *a, y: 9}\nd: {<<: [*a, *b], '<<': 5}\ne: *a\n"
    assert read(text, "x").plain == {
        "a": {"x": 1, "y": 2},
        "b": {"y": 3, "z": 4},
        "c": {"x": 1, "y": 9},
        "d": {"x": 1, "y": 2, "z": 4, "<<": 5},
        "e": {"x": 1, "y": 2},
    }


def test_places_count_characters_not_bytes() -> None:
    node = read("ä: 'öö'\nb:\n  - {ü: ñ, c: 3}\n", "x")
    inner = node.child("b").child(0).child("c")  # type: ignore[union-attr]
    assert inner is not None
    assert (inner.place, inner.key) == (("x", 3, 15), ("x", 3, 12))
