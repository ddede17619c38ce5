"""Tunables are the numbers of a spec as its source sets them; each tree is what `--set` would make."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from strategies import specs

from composer.costs.fitting.tunables import Tunables, find
from composer.language.description.show import document
from composer.language.load import load, loads
from composer.settings.errors import SpecError

SPECS = sorted(path for path in Path("specs").glob("*.yaml") if "search:" not in path.read_text())
LET = """\
schema: 1
name: tied
let: {w: 64, n: 2, heads: {heads: 4, kv_heads: 2}, twice: "${2 * w}"}
model: {width: "${w}", vocab: 16, context: 16}
blocks:
  seq: "${seq}"
  mlp: {type: feed_forward, hidden: "${twice}"}
stages:
  - recur: "${n}"
    step: [seq, {stack: "${n + 1}", step: [mlp]}]
"""


def labels(spec, **how):
    return {tunable.label: tunable.value for tunable in Tunables(spec, **how).all}


def test_each_number_that_costs_depend_on_is_a_tunable():
    got = labels(load("specs/dreamer-tiny.yaml"))
    assert got == {
        "width": 48,
        "seq.heads": 3,
        "seq.kv_heads": 1,
        "seq.head_dim": 16,
        "depth.heads": 3,
        "depth.kv_heads": 1,
        "depth.head_dim": 16,
        "depth.stride": 1,
        "expert.experts": 12,
        "expert.active": 2,
        "expert.hidden": 32,
        "steps": 6,
        "train.accumulate": 1,
        "train.batch_tokens": 2400,
        "train.tokens": 3_000_000,
    }


def test_numbers_of_one_name_are_one_tunable_unless_taken_apart():
    spec = load("specs/dreamer-small.yaml")
    tied, apart = labels(spec), labels(spec, apart=True)
    assert tied["let.w"] == apart["width"] == apart["expert.hidden"] == 384
    assert not {"width", "expert.hidden"} & set(tied)
    assert "let.w" not in apart


def test_a_name_moves_whatever_reads_it_even_through_other_names():
    text = LET.replace('"${seq}"', "{type: sequence_attention, heads: 4}").replace(
        "heads: {heads: 4, kv_heads: 2}, ", ""
    )
    spec = loads(text)
    assert {"let.w": 64, "let.n": 2}.items() <= labels(spec).items()
    assert not {"width", "mlp.hidden", "stages.0.recur"} & set(labels(spec))
    tree = Tunables(spec).tree({"let.w": 96, "let.n": 3})
    assert (tree["model"]["width"], tree["blocks"]["mlp"]["hidden"]) == (96, 192)
    assert (tree["stages"][0]["recur"], tree["stages"][0]["step"][1]["stack"]) == (3, 4)


def test_a_number_inside_a_mapping_of_let_is_a_tunable_of_every_place_that_takes_it():
    text = LET.replace(
        "heads: {heads: 4, kv_heads: 2}", "seq: {type: sequence_attention, heads: 4, kv_heads: 2}"
    )
    spec = loads(text)
    assert labels(spec)["let.seq.heads"] == 4
    assert Tunables(spec).tree({"let.seq.heads": 8})["blocks"]["seq"]["heads"] == 8


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_tree_is_what_set_makes(path):
    tunables = Tunables(load(path))
    for tunable in tunables.all:
        value = 2 * tunable.value
        try:
            spec = load(path, [f"{tunable.path}={value}"])
        except SpecError:
            continue
        assert json.loads(json.dumps(tunables.tree({tunable.path: value}))) == json.loads(
            json.dumps(document(spec))
        )


@given(specs())
def test_present_values_change_nothing_but_defaults_written_out(spec):
    tunables = Tunables(spec)
    tree = tunables.tree({tunable.path: tunable.value for tunable in tunables.all})
    again = loads(json.dumps(tree))
    assert again.blocks.keys() == spec.blocks.keys()
    width = spec.model.width
    assert all(
        again.blocks[name].canonical(width) == spec.blocks[name].canonical(width) for name in spec.blocks
    )
    assert (again.model, again.stages) == (spec.model, spec.stages)
    assert tunables.base == document(spec), "the base is not written into"


def test_a_tunable_that_is_not_there_is_told_with_the_nearest_name():
    tunables = Tunables(load("specs/dreamer-tiny.yaml")).all
    assert find(tunables, "blocks.expert.experts", "x") is find(tunables, "expert.experts", "x")
    with pytest.raises(
        SpecError, match=r"one of width, .*, got 'expert.expert' \(did you mean expert.experts"
    ):
        find(tunables, "expert.expert", "dreamer-tiny")
