"""The editor's schema accepts what the language accepts, and refuses what it can see to be wrong."""

from __future__ import annotations

import copy
import json
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from samples import samples
from spec_texts import SPACE, TINY
from strategies import trees

from composer.language.description.json_schema import spec_schema
from composer.language.load import loads
from composer.language.parsing.yaml12 import read
from composer.settings.errors import SpecError
from composer.settings.tree import Node

SPECS = Path(__file__).parents[2] / "specs"
VALIDATOR = Draft202012Validator(spec_schema())


def plain(node: Node) -> Any:
    """Lists, which the validator takes for arrays; tuples it does not."""
    if isinstance(node.value, dict):
        return {name: plain(child) for name, child in node.value.items()}
    return [plain(child) for child in node.value] if isinstance(node.value, list) else node.value


def schema_faults(document: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(document)]


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(spec_schema())


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_specs_pass_and_point_to_it(path: Path) -> None:
    text = path.read_text()
    assert text.splitlines()[0] == "# yaml-language-server: $schema=composer.schema.json"
    assert schema_faults(plain(read(text, path.name))) == []


@samples(60)
@given(trees(trained=True))
def test_whatever_loads_passes(document: dict[str, Any]) -> None:
    loads(json.dumps(document))
    assert schema_faults(document) == []


RIGHT = [
    TINY,
    SPACE,
    "extends: tiny.yaml\n",
    "extends: [a.yaml, b.yaml]\nmodel: {width: 4Ki}\n",
    "extends: a.yaml\nblocks: {seq: {heads: 8}, depth: null}\n",
    "let: {w: 3, v: {choice: [1, 2]}}\nmodel: {width: '${w * 2}', context: {int: [1k, 4k], step: 1k}}\n",
    "model: {choice: {small: {width: 8}, large: {width: '${w}'}}}\n",
    "blocks: {seq: {choice: [{type: feed_forward, hidden: 8}, {hidden: {choice: [1]}}]}}\n",
    "stages: [{recur: 2, step: {choice: {a: [x], b: [{stack: '${n}', step: [y]}]}}}]\n",
    "stages: [{recur: 2, step: [{choice: [x, {parallel: [x, y]}]}]}]\n",
    "train: {data: {choice: {a: {task: hop}, b: {path: x}}}, lr: {float: [1e-4, 1], log: true}}\n",
    "train: {betas: [0.9, {choice: [0.95, 0.99]}], precision: '32', devices: 2, schedule: {decay: 0.5}}\n",
    "caps: {params: 30M, train_memory: 2GiB, active_params: null}\nsearch: {time_limit: 2h, trials: 8}\n",
]


@pytest.mark.parametrize("text", RIGHT)
def test_units_references_choices_and_parts_of_specs_pass(text: str) -> None:
    assert schema_faults(plain(read(text, "x"))) == []


WRONG: list[tuple[list[str | int], Any]] = [
    (["foo"], 1),
    (["schema"], 2),
    (["model", "widht"], 3),
    (["model", "width"], 1.5),
    (["model", "width"], 0),
    (["model", "width"], "wide"),
    (["model", "width"], True),
    (["model", "tie_embeddings"], "no"),
    (["model", "width"], {"choice": []}),
    (["model", "width"], {"choice": [8, "wide"]}),
    (["model", "width"], {"int": [1]}),
    (["model", "width"], {"int": [1, 2], "stride": 3}),
    (["blocks", "seq", "type"], "sequence_atention"),
    (["blocks", "seq", "experts"], 4),
    (["blocks", "seq", "window"], "all"),
    (["blocks", "a.b"], {"type": "feed_forward", "hidden": 8}),
    (["blocks", "seq"], 3),
    (["stages", 0, "stack"], 3),
    (["stages", 0, "inject"], "sum"),
    (["stages", 0, "step"], []),
    (["stages", 0, "step"], [3]),
    (["stages", 0, "step"], [{"name": "seq"}]),
    (["stages", 0, "step"], [{"parallel": ["seq"]}]),
    (["stages", 0, "step"], [{"parallel": ["seq", "depth"], "combine": "max"}]),
    (["stages"], []),
    (["caps", "params"], "many"),
    (["caps", "params"], {"choice": [1, 2]}),
    (["train", "data", "task"], "hopp"),
    (["train", "data", "path"], "x"),
    (["train", "lr"], 0),
    (["train", "precision"], "fp8"),
    (["train", "schedule", "warmup"], 2),
    (["train", "betas"], [0.9]),
    (["search"], {"trails": 3}),
    (["search"], {"sampler": "bohb"}),
    (["search"], {"time_limit": "soon"}),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=[f"{path}={value}" for path, value in WRONG])
def test_wrong_documents_are_refused_here_and_there(path: list[str | int], value: Any) -> None:
    document = copy.deepcopy(plain(read(TINY, "x")))
    parent = reduce(
        lambda result, step: result.setdefault(step, {}) if isinstance(result, dict) else result[step],
        path[:-1],
        document,
    )
    parent[path[-1]] = value
    assert schema_faults(document)
    with pytest.raises(SpecError):
        loads(json.dumps(document))


def test_every_key_is_described() -> None:
    schema = spec_schema()
    keyed = [schema, *(definition for definition in schema["$defs"].values() if "properties" in definition)]
    missing = [
        key
        for definition in keyed
        for key, value in definition["properties"].items()
        if "description" not in value and key not in ("type", "task")
    ]
    assert missing == []
