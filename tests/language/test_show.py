"""The resolved form loads back to the same spec, and says where each value came from."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from samples import samples
from spec_texts import TINY
from strategies import trees

from composer.language.description.show import _scalar, changed_yaml, resolved_lines, resolved_yaml
from composer.language.load import load, loads
from composer.language.parsing.yaml12 import read
from composer.language.schema.identity import arch_hash, run_hash
from composer.language.schema.spec import Spec


@samples(150)
@given(trees(trained=True))
def test_the_resolved_form_loads_back_to_an_equal_spec(plain: dict[str, Any]) -> None:
    spec = loads(json.dumps(plain))
    for origins in (False, True):
        again = loads(resolved_yaml(spec, origins))
        assert again == spec
        assert (arch_hash(again), run_hash(again)) == (arch_hash(spec), run_hash(spec))
    assert resolved_yaml(again) == resolved_yaml(spec)


@samples(100)
@given(trees(trained=True))
def test_what_differs_from_the_defaults_loads_back_to_an_equal_spec(plain: dict[str, Any]) -> None:
    spec = loads(json.dumps(plain))
    kept = changed_yaml(spec)
    assert loads(kept) == spec
    assert changed_yaml(loads(kept)) == kept
    lines = list(resolved_lines(spec))
    assert [line.text for line in lines] == resolved_yaml(spec).splitlines()
    # what stands out in full is what is kept
    marked = [line.text.strip().removeprefix("- ").split(":")[0] for line in lines if line.changed]
    values = [line.strip() for line in kept.splitlines() if not line.endswith((":", "-"))]
    assert marked == [value.removeprefix("- ").split(":")[0] for value in values]


def test_a_value_written_as_its_default_says_is_no_difference() -> None:
    spec = loads(TINY.replace("lr: 3e-3", "lr: 2e-3\n  clip: 1.0\n  seed: 3"))
    assert spec.origin("train", "clip") != "default"
    flags = {line.text.strip(): line.changed for line in resolved_lines(spec)}
    assert flags["clip: 1.0"] is False
    assert flags["seed: 3"] is flags["lr: 0.002"] is flags["heads: 4"] is True
    assert flags["train:"] is None


@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.floats(),
        st.integers(),
        st.booleans(),
        st.none(),
    )
)
def test_every_scalar_reads_back_as_it_was(value: Any) -> None:
    source = read(f"a: {_scalar(value)}", "x").plain["a"]
    if isinstance(value, str):
        source = source.replace("$${", "${")
    assert type(source) is type(value)
    assert source == value or value != value


def test_a_path_with_a_reference_in_it_survives() -> None:
    text = TINY.replace(
        "{task: hop, length: 48, symbols: 4, hops: 4}", "{task: text, path: '$${HOME}/x', length: 8}"
    )
    spec = loads(text.replace("vocab: 32", "vocab: 256"))
    assert spec.train is not None
    assert spec.train.data.model_dump()["path"] == "${HOME}/x"
    assert loads(resolved_yaml(spec)) == spec


def test_nothing_is_left_out_but_what_would_be_refused() -> None:
    spec = loads(TINY.replace("heads: 4, kv_heads: 2", "heads: 4, rope: false"))
    shown = read(resolved_yaml(spec), "x").plain
    unread = {"rope_base", "rope_fraction", "rope_scaling"}
    assert not unread & shown["blocks"]["seq"].keys()
    assert shown["blocks"]["seq"].keys() | unread == spec.blocks["seq"].model_dump().keys()
    assert spec.train is not None
    assert shown["train"].keys() == type(spec.train).model_fields.keys()
    schedule = {"warmup": 0.05, "stable": 0.75, "decay": 0.2, "shape": "linear"}
    assert shown["train"]["schedule"] == schedule


def test_each_key_says_where_it_came_from(tmp_path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "top.yaml").write_text('extends: tiny.yaml\nlet: {w: 32}\nmodel: {width: "${w * 2}"}\n')
    text = resolved_yaml(load(tmp_path / "top.yaml", ["train.seed=7"]), origins=True)
    sources = {line.split("#")[0].strip(): line.split("# ")[1] for line in text.splitlines() if "#" in line}
    assert sources["width: 64"].endswith("top.yaml:3 = ${w * 2}")
    assert sources["vocab: 32"].endswith("tiny.yaml:3")
    assert sources["seed: 7"] == "--set train.seed=7"
    assert sources["inject: none"] == "default"
    assert sources["step: [seq, depth, expert]"].endswith("tiny.yaml:10")
    assert [line for line in text.splitlines() if not line.endswith(":") and "# " not in line] == []


def test_a_spec_made_in_python_can_be_shown() -> None:
    spec = Spec.model_validate(read(TINY, "x").plain)
    assert loads(resolved_yaml(spec, origins=True)) == spec
