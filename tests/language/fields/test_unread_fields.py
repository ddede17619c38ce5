"""Fields that are valid by themselves are refused where nothing reads them, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from composer.language.load import load, loads, read_text
from composer.language.space import InvalidPoint, Space
from composer.settings.errors import SpecError
from composer.testing.examples import stands, wiring_examples
from composer.testing.wiring import program

BLOCKS: dict[str, dict[str, Any]] = {
    "s": {"type": "sequence_attention", "heads": 2},
    "d": {"type": "depth_attention", "heads": 2},
    "e": {"type": "expert_attention", "experts": 4, "active": 2, "hidden": 8},
    "f": {"type": "feed_forward", "hidden": 8},
}
TEXT = {"task": "text", "path": "corpus", "length": 16}
FLAT = [{"recur": 3, "step": ["s", "d"]}]
ONCE = [{"recur": 1, "step": ["s"]}, {"stack": 1, "step": ["s", "f"]}]


def spec(stages: Any, model: Any = None, train: Any = None, **fields: Any) -> dict[str, Any]:
    """A spec of these stages; `fields` are those of blocks, such as s={"depth": "joint"}."""
    text = json.dumps(stages)
    blocks = {name: {**BLOCKS[name], **fields.get(name, {})} for name in BLOCKS if f'"{name}"' in text}
    by_name = {"schema": 1, "name": "t", "blocks": blocks, "stages": stages}
    by_name["model"] = {"width": 16, "vocab": 300, "context": 16, **(model or {})}
    return by_name | ({"train": {"data": TEXT, "tokens": "1M", **train}} if train else {})


def decay(shape: str, tokens: int, share: float = 0.2) -> dict[str, Any]:
    schedule = {"warmup": 0, "stable": 1 - share, "decay": share, "shape": shape}
    return {"tokens": tokens, "batch_tokens": 160, "schedule": schedule}


MANY = {"steps": 1, "train": {"uniform": [1, 3]}}
APART = {"documents": {"apart": 255}}
REFUSED = {
    "a wider scope in a flat stage": ("blocks.d.depth_scope", spec(FLAT, d={"depth_scope": "stage"})),
    "the model's scope in one stage": ("blocks.d.depth_scope", spec(FLAT, d={"depth_scope": "model"})),
    "a stage's scope in two": ("blocks.d.depth_scope", spec(FLAT * 2, d={"depth_scope": "stage"})),
    "earlier steps in one": ("blocks.s.depth", spec(ONCE, s={"depth": "joint"})),
    "all steps in one": ("blocks.s.steps", spec(ONCE, s={"steps": "all"})),
    "all steps at one": (
        "blocks.s.steps",
        spec([{"recur": 3, "step": [{"use": "s", "at": ":1"}, "f"]}], s={"steps": "all"}),
    ),
    "balance of all experts": (
        "blocks.e.balance_rate",
        spec([{"recur": 2, "step": ["e"]}], e={"active": 4, "balance_rate": 0.1}),
    ),
    "a balance loss of one expert": (
        "blocks.e.balance_loss",
        spec([{"recur": 2, "step": ["e"]}], e={"experts": 1, "active": 1, "balance_loss": 0.1}),
    ),
    "documents apart without attention": (
        "model.documents",
        spec([{"recur": 2, "step": ["d", "e", "f"]}], APART),
    ),
    "a norm of stages alone": (
        "stages.0.norm",
        spec([{"recur": 3, "norm": "sandwich", "step": [{"stack": 2, "step": ["s", "f"]}]}]),
    ),
    "a shape of no step": ("train.schedule.shape", spec(FLAT, train=decay("cosine", 320))),
    "a shape of one step": ("train.schedule.shape", spec(FLAT, train=decay("sqrt", 800))),
}
NESTED = [{"stack": 2, "step": ["s", {"recur": 2, "step": ["d"]}]}]
ACCEPTED = {
    "the model's norm at stages alone": spec(
        [{"recur": 3, "norm": "post", "step": [{"stack": 2, "step": ["s", "f"]}]}], {"norm": "post"}
    ),
    "a stage's scope around a loop": spec(NESTED, d={"depth_scope": "stage"}),
    "the model's scope of two stages": spec(FLAT * 2, d={"depth_scope": "model"}),
    "the model's input beside a stage": spec(
        [{"stack": 1, "step": ["f"]}, *FLAT], d={"depth_scope": "model", "input": True}
    ),
    "earlier steps in a loop beside one step": spec([*ONCE, *FLAT], s={"depth": "joint"}),
    "earlier steps of training": spec([{"recur": MANY, "step": ["s"]}], s={"depth": "joint"}),
    "earlier uses in one step": spec([{"recur": 1, "step": ["s", "s"]}], s={"steps": "all"}),
    "earlier steps in a stack inside one step": spec(
        [{"recur": 1, "step": [{"stack": 2, "step": ["s"]}]}], s={"depth": "joint"}
    ),
    "the usual balance of one expert": spec([{"recur": 2, "step": ["e"]}], e={"experts": 1, "active": 1}),
    "no balance of one expert": spec(
        [{"recur": 2, "step": ["e"]}], e={"experts": 1, "active": 1, "balance_rate": 0}
    ),
    "documents apart with positions": spec([{"recur": 2, "step": ["f"]}], {**APART, "positions": "learned"}),
    "documents apart with attention": spec(FLAT, APART),
    "a shape of two steps": spec(FLAT, train=decay("sqrt", 1600)),
    "the usual shape of no step": spec(FLAT, train=decay("linear", 320)),
}


@pytest.mark.parametrize("key", ["norm", "residual"])
def test_an_option_of_a_stage_that_holds_stages_alone_is_refused_or_acts(key: str) -> None:
    nested = {"recur": 3, "step": [{"stack": 2, "step": ["s", "f"]}]}
    plain = json.dumps(spec([nested]))
    for value in wiring_examples("stage")[key][1:]:
        other = json.dumps(spec([{**nested, key: value}]))
        if stands(json.loads(other)):
            assert program(other) != program(plain), value


@pytest.mark.parametrize("case", REFUSED)
def test_a_field_that_nothing_reads_is_refused_at_its_place(case: str) -> None:
    path, plain = REFUSED[case]
    with pytest.raises(SpecError) as error:
        loads(json.dumps(plain))
    (fault,) = error.value.faults
    assert fault.path == path
    assert fault.line
    assert fault.got


@pytest.mark.parametrize("case", REFUSED)
def test_a_stored_spec_may_have_a_field_that_nothing_reads(case: str, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(json.dumps(REFUSED[case][1]), "utf-8")
    load(path, stored=True)


@pytest.mark.parametrize("case", ACCEPTED)
def test_a_field_that_something_reads_is_accepted(case: str) -> None:
    loads(json.dumps(ACCEPTED[case]))


def test_a_field_without_effect_at_one_point_of_a_space_rules_out_that_point_alone() -> None:
    plain = spec([{"recur": {"choice": [1, 3]}, "step": ["s"]}], s={"depth": "joint"}, train={"lr": 1e-3})
    search = {"objectives": [{"minimize": "loss"}], "trials": 2}
    space = Space(read_text(json.dumps({**plain, "search": search}), "space.yaml"))
    assert space.example().spec.stages[0].trips == 3
    with pytest.raises(InvalidPoint, match=r"blocks\.s\.depth: expected none"):
        space.point(lambda parameter: 1)
