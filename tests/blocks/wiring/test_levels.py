"""Options on the model, on stages and on entries of steps: which applies, and what is the same spec."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cases import ALL, tree

from blocks.wiring.norm.post import PostNorm
from blocks.wiring.residual import Residual
from composer.graph.compile import compile_graph
from composer.language.description.diff import differences
from composer.language.load import loads, read_text
from composer.language.schema.identity import arch_hash
from composer.language.schema.levels import entry_options, stage_options
from composer.language.schema.spec import Spec, Stage
from composer.language.space import Space
from composer.settings.errors import SpecError

POST: dict[str, Any] = {"norm": "post"}
BLOCKS = {name: ALL[name] for name in ("seq", "ffn")}


def plain(step: list[Any], stage: dict[str, Any] | None = None, **model: Any) -> dict[str, Any]:
    plain = tree(BLOCKS, {"recur": 2, "step": step, **(stage or {})})
    return {**plain, "model": {**plain["model"], **model}}


def spec(step: list[Any], stage: dict[str, Any] | None = None, **model: Any) -> Spec:
    return loads(json.dumps(plain(step, stage, **model)))


def weights(result: Spec) -> set[str]:
    return set(compile_graph(result).loop("stages.0").body.weights)


def test_the_innermost_level_applies() -> None:
    step = ["seq", {"use": "ffn", "norm": "sandwich"}, {"parallel": ["seq", "ffn"]}]
    built = spec(step, POST, residual={"scale": 0.5})
    around = stage_options(built.model, built.stages[0])
    names = [
        {key: option.name for key, option in entry_options(around, entry).items()}
        for entry in built.stages[0].step
        if not isinstance(entry, Stage)
    ]
    rest = {"inject": "none", "residual": "scale"}
    post, sandwich = {"norm": "post", **rest}, {"norm": "sandwich", **rest}
    assert [{key: each[key] for key in post} for each in names] == [post, sandwich, post]


def test_a_nested_stage_takes_the_options_of_the_model_alone() -> None:
    nested = {"stack": 2, "step": ["ffn"]}
    of_stage, of_model = spec(["seq", nested], {"norm": "sandwich"}), spec(["seq", nested], norm="sandwich")
    inner = [
        set(compile_graph(each).loop("stages.0").body.loop("1").body.weights) for each in (of_stage, of_model)
    ]
    assert "0.out_norm" not in inner[0]
    assert "0.out_norm" in inner[1]
    assert "0.out_norm" in weights(of_stage) & weights(of_model)


def test_the_level_on_which_an_option_is_given_makes_no_other_architecture() -> None:
    step = ["seq", {"parallel": ["seq", "ffn"]}]
    on_entries = [{"use": "seq", **POST}, {"parallel": ["seq", "ffn"], **POST}]
    same = [spec(step, norm="post"), spec(step, POST), spec(on_entries), spec(on_entries, {"norm": "pre"})]
    assert {arch_hash(each) for each in same} == {arch_hash(same[0])}
    assert not [each for one in same for each in differences(same[0], one)]
    assert arch_hash(spec(step)) == arch_hash(spec([{"use": "seq"}, step[1]], {"norm": "pre"}))
    other = [spec(step), spec([on_entries[0], step[1]]), spec([step[0], on_entries[1]])]
    assert len({arch_hash(each) for each in (*same, *other)}) == 4


def test_an_entry_without_options_is_the_name_alone() -> None:
    assert spec([{"use": "seq"}, {"use": "ffn", "norm": None}]) == spec(["seq", "ffn"])


def test_a_difference_is_told_where_it_is() -> None:
    before = spec(["seq", "ffn", "seq"])
    faults = [
        str(each)
        for after in (
            spec(["seq", {"use": "ffn", **POST}, "seq"]),
            spec(["seq", "ffn", {"parallel": ["seq", "ffn"], **POST}]),
        )
        for each in differences(before, after)
    ]
    assert faults == [
        "stages.0.step.1: norm as in the stage -> post",
        "stages.0.step: seq -> seq and ffn in parallel (sum, norm post)",
    ]
    post = {"use": "seq", **POST}
    (told_order,) = differences(spec([post, "ffn", "ffn"]), spec(["ffn", post, "ffn"]))
    assert str(told_order) == "stages.0.step: order seq (norm post), ffn, ffn -> ffn, seq (norm post), ffn"


def test_a_space_can_choose_an_option_of_an_entry() -> None:
    choice = {"choice": ["pre", "post", "sandwich"]}
    result = plain(["seq", {"use": "ffn", "norm": choice}]) | {
        "search": {"objectives": [{"minimize": "loss"}], "trials": 1},
        "train": {"data": {"task": "hop", "length": 48}, "tokens": 10_000},
    }
    result["model"] |= {"context": 48, "vocab": 16}
    space = Space(read_text(json.dumps(result), "t.yaml"))
    (parameter,) = space.parameters
    assert parameter.name == "stages.0.step.1.norm"
    hashes = {arch_hash(space.point(lambda _, name=name: name).spec) for name in choice["choice"]}
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ({"use": "nope"}, "stages.0.step.0.use: expected one of seq, ffn, got 'nope'"),
        ({"norm": "post"}, "stages.0.step.0.use: expected a name of letters"),
        (
            {"use": "seq", "nrom": "post"},
            "stages.0.step.0.nrom: expected a known key, got nrom (did you mean norm?)",
        ),
        ({"use": "seq", "inject": "add"}, "got inject (that is `inject` of a stage)"),
        ({"use": "seq", "norm": "psot"}, "stages.0.step.0.norm: expected pre, "),
        ({"use": ["seq"]}, "stages.0.step.0.use: expected a name of letters"),
        ({"parallel": ["seq", "ffn"], "use": "seq"}, "stages.0.step.0.parallel: expected a known key"),
    ],
)
def test_a_wrong_entry_is_refused_with_its_place(entry: dict[str, Any], fault: str) -> None:
    with pytest.raises(SpecError) as raised:
        spec([entry, "seq", "ffn"])
    assert fault in str(raised.value)


@pytest.mark.parametrize(
    ("step", "stage", "fault"),
    [
        (
            ["seq", {"use": "ffn", **POST}],
            {},
            "stages.0.step.1.norm: expected a value for this entry alone, since post acts on the whole stage",
        ),
        (
            ["seq", {"parallel": ["seq", "ffn"], "norm": "pre"}],
            POST,
            "stages.0.step.1.norm: expected post, as in the stage, since it acts on all entries, got 'pre'",
        ),
    ],
)
def test_what_acts_on_a_whole_stage_is_no_option_of_an_entry(
    step: list[Any], stage: dict[str, Any], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostNorm, "around_step", lambda self, build, x, run: run(x), raising=False)
    assert spec(["seq", "ffn"], POST)
    with pytest.raises(SpecError) as raised:
        spec(step, stage)
    assert fault in str(raised.value)


def test_an_option_of_the_model_is_checked_in_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    from blocks.base.config import Problem
    from blocks.wiring.residual.scale import ScaledResidual

    def problems(self: Residual, site: Any) -> Any:
        if not site.tied:
            yield Problem("scale", "a recurrent stage", self.plain())

    monkeypatch.setattr(ScaledResidual, "problems", problems)
    assert spec(["seq", "ffn"], residual={"scale": 0.5})
    with pytest.raises(SpecError, match=r"model\.residual\.scale: expected a recurrent stage"):
        spec(["seq", {"stack": 2, "step": ["ffn"]}], residual={"scale": 0.5})
