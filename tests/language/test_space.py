"""Spaces: parameters of taken branches only, every alternative checked, points that are plain specs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_texts import SPACE, TINY

from composer.language.description.show import resolved_yaml
from composer.language.load import load, loads
from composer.language.parsing.choice import SearchParameter
from composer.language.schema.identity import arch_hash
from composer.language.space import InvalidPoint, Space, draw, load_space
from composer.settings.errors import SpecError

Ask = Callable[[SearchParameter], Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("spaces")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "space.yaml").write_text(SPACE)
    return folder


@pytest.fixture(scope="module")
def space(folder: Path) -> Space:
    return load_space(folder / "space.yaml")


def first(**answers: Any) -> Ask:
    return lambda parameter: answers.get(
        parameter.name, parameter.choices[0] if parameter.choices else type(parameter.low)(parameter.low)
    )


def changed(folder: Path, old: str, new: str, *overrides: str) -> Space:
    assert old in SPACE
    (folder / "changed.yaml").write_text(SPACE.replace(old, new, 1))
    return load_space(folder / "changed.yaml", overrides)


def test_parameter_are_named_by_path_and_branch(space: Space) -> None:
    assert space.describe().splitlines() == [
        "stages.0.recur: 2 or 4",
        "stages.0.step: plain, dreamer or side",
        "blocks.expert.experts: 8 or 16",
        "blocks.expert.active: int from 1 to 4",
        "blocks.expert.hidden: int from 32 to 256 in steps of 32",
        "let.w: 64, 96 or 128",
        "train.lr: float from 0.0001 to 0.01 (log)",
        "stages.0.step[side].0.combine: sum or gate",
    ]


def test_only_parameter_of_taken_branches_are_asked_and_each_once(space: Space) -> None:
    asked: list[str] = []

    def ask(parameter: SearchParameter) -> Any:
        asked.append(parameter.name)
        return first()(parameter)

    point = space.point(ask)
    assert len(asked) == len(set(asked)) == 7
    assert "stages.0.step[side].0.combine" not in asked
    assert list(point.params) == asked


def test_a_point_drops_the_blocks_it_does_not_use(space: Space) -> None:
    assert list(space.point(first()).spec.blocks) == ["seq", "expert"]
    assert list(space.point(first(**{"stages.0.step": "dreamer"})).spec.blocks) == ["seq", "depth", "expert"]


def test_answers_land_where_they_belong(space: Space) -> None:
    answers = {"let.w": 96, "stages.0.step": "side", "stages.0.step[side].0.combine": "gate"}
    answers |= {
        "blocks.expert.hidden": 160,
        "blocks.expert.active": 3,
        "train.lr": 0.005,
        "stages.0.recur": 4,
    }
    spec = space.point(first(**answers)).spec
    assert spec.train is not None
    assert (spec.name, spec.model.width, spec.stages[0].trips, spec.train.lr) == ("small", 96, 4, 0.005)
    assert spec.stages[0].step[0].combine.name == "gate"  # type: ignore[union-attr]
    expert = spec.blocks["expert"].model_dump()
    assert (expert["hidden"], expert["active"], expert["experts"]) == (160, 3, 8)


@given(seed=st.integers(0, 10**6))
def test_every_point_is_a_plain_spec_that_loads_again(space: Space, seed: int) -> None:
    rng = random.Random(seed)
    point = space.point(lambda parameter: draw(parameter, rng))
    text = resolved_yaml(point.spec)
    assert "choice:" not in text
    assert loads(text) == point.spec
    again = space.point(lambda parameter: point.params[parameter.name])
    assert again.spec == point.spec
    assert again.params == point.params


def test_an_invalid_point_says_why_and_which(folder: Path) -> None:
    space = changed(folder, "[8, 16]", "[2, 16]")
    with pytest.raises(InvalidPoint) as caught:
        space.point(first(**{"blocks.expert.active": 4}))
    assert "blocks.expert.active: expected at most the number of experts (2), got 4" in str(caught.value)
    assert "blocks.expert.active=4" in str(caught.value).splitlines()[-1]
    assert caught.value.params["blocks.expert.experts"] == 2
    assert space.example().params["blocks.expert.active"] <= 2


@pytest.mark.parametrize("answer", [33, 0, 288, 64.0, "64", True])
def test_an_answer_outside_the_parameter_is_refused(space: Space, answer: Any) -> None:
    with pytest.raises(InvalidPoint, match=r"an answer to blocks\.expert\.hidden"):
        space.point(first(**{"blocks.expert.hidden": answer}))


def test_unread_let_choices_are_not_asked(folder: Path) -> None:
    text = 'hidden: {choice: {own: 64, wide: "${h}"}}'
    space = changed(folder, "hidden: {int: [32, 256], step: 32}", text, "let.h={choice: [128, 256]}")
    assert "let.h" not in space.point(first()).params
    point = space.point(first(**{"blocks.expert.hidden": "wide", "let.h": 256}))
    assert point.spec.blocks["expert"].model_dump()["hidden"] == 256


def test_choices_nest(folder: Path) -> None:
    space = changed(folder, "recur: {choice: [2, 4]}", "recur: {choice: [2, {int: [4, 8], step: 2}]}")
    assert [parameter.choices for parameter in space.parameters if parameter.name == "stages.0.recur"] == [
        ("2", "{int: [4, 8], step: 2}")
    ]
    answers = {"stages.0.recur": "{int: [4, 8], step: 2}", "stages.0.recur[{int: [4, 8], step: 2}]": 6}
    assert space.point(first(**answers)).spec.stages[0].trips == 6


def test_a_block_may_be_a_choice_as_a_whole(folder: Path) -> None:
    few, many = (f"{{type: sequence_attention, heads: {heads}}}" for heads in (2, 8))
    text = f"seq: {{choice: {{few: {few}, many: {many}}}}}"
    space = changed(folder, "blocks:", f"blocks:\n  {text}")
    assert space.point(first(**{"blocks.seq": "many"})).spec.blocks["seq"].model_dump()["heads"] == 8


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[8, 16]", "[8, x]", "6:34  blocks.expert.experts: expected a whole number above 0"),
        ("[8, 16]", "[8, 8]", "6:34  blocks.expert.experts.choice: expected each alternative once, got 8"),
        ("[8, 16]", "[]", "6:30  blocks.expert.experts.choice: expected a list or mapping of alternatives"),
        ("{choice: [8, 16]}", "{choice: [8], log: true}", "blocks.expert.experts.log: expected a choice"),
        ("[1, 4]}", "[1, 2, 3]}", "blocks.expert.active.int: expected two whole numbers [low, high]"),
        ("[1, 4]}", "[1.5, 4]}", "blocks.expert.active.int: expected two whole numbers [low, high]"),
        ("[1, 4]}", "[4, 1]}", "blocks.expert.active.int: expected low before high, got [4, 1]"),
        ("step: 32}", "step: 33}", "blocks.expert.hidden.step: expected a step that divides 224, got 33"),
        ("step: 32}", "log: 1}", "blocks.expert.hidden.log: expected true or false, got 1"),
        ("[1e-4, 1e-2]", "[0, 1e-2]", "train.lr.float: expected a low above 0 for log: true, got 0"),
        ("[seq, depth, expert]", "[seq, dept, expert]", "stages.0.step.1: expected one of"),
        ("[sum, gate]", "[sum, max]", "stages.0.step.0.combine: expected sum, gate or mean, got 'max'"),
        ("name: small", "name: {choice: [a, b]}", "2:7  name: expected one value, got a choice"),
        ("name: small", "nmae: small", "2:1  nmae: expected a known key, got nmae (did you mean name?)"),
        (
            "blocks:",
            "blocks:\n  ff: {type: feed_forward, hidden: 9}",
            "blocks.ff: block 'ff' is defined but never used",
        ),
        ("let: {", "let: {v: 1, ", "3:7  let.v: name 'v' is defined but never used"),
        ('"${w}"', '"${v}"', "model.width: expected a name from `let`, got 'v'"),
        ("trials: 8", "trails: 8", "search.trails: expected a known key, got trails (did you mean trials?)"),
        ("trials: 8", "trials: {choice: [8]}", "search: expected plain values, got a choice"),
        ("250k, 1M", "1M, 250k", "search: expected rungs that ascend, got 1000000, 250000"),
        ("250k, 1M", "250k, 2M", "search.rungs: expected rungs up to train.tokens (1000000), got 2000000"),
        (
            "trials: 8",
            "trials: 8\n  sampler: bohb",
            "search.sampler: expected evolution, gp, nsga2, random or tpe, got 'bohb'",
        ),
        ("trials: 8", "trials: 8\n  keep: 0", "search.keep: expected a number above 0 and at most 1, got 0"),
        ("trials: 8", "trials: 8\n  time_limit: soon", "search.time_limit: expected a duration such as 80ms"),
        (
            "rungs: [250k, 1M]\n  baselines: [tiny.yaml]",
            "rungs: {flops: [1T, 2T]}\ncaps: {train_flops: 2T}",
            "search.rungs: expected rungs below caps.train_flops (2000000000000), got 2000000000000",
        ),
        ("trials: 8", "trials: 8\n  lr_sweep: [1]", "expected distinct multiples other than 1"),
        (
            "trials: 8",
            "trials: 8\n  lr_sweep: [0.1234567, 0.1234568]",
            "expected distinct multiples other than 1",
        ),
        ("[250k, 1M]", "{flops: []}", "search.rungs.flops: expected a list that is not empty"),
        ("[250k, 1M]", "{flop: [1T]}", "search.rungs.flop: expected a known key, got flop (did you mean"),
        (
            "minimize: flops_per_token",
            "minimize: step_time",
            "16:38  search.objectives.1: expected a device to estimate step_time for, got none (add caps",
        ),
        (
            "[tiny.yaml]",
            "[{spec: tiny.yaml, match: [params, flops_per_token]}]",
            "19:15  search.baselines.0: expected a hard cap on flops_per_token to match it to, got none",
        ),
        ("[tiny.yaml]", "[{spec: tiny.yaml, match: [parms]}]", "match.0: expected params, active_params"),
        ("[tiny.yaml]", "[no.yaml]", "19:15  search.baselines.0: file not found: "),
        ("[tiny.yaml]", "[space.yaml]", "search: expected a spec, got a space"),
        (", {minimize: flops_per_token}", ", {minimize: accuracy}", "expected different metrics"),
        ("{maximize: accuracy}, ", "{maximize: a, minimize: b}, ", "objectives.0: expected either max"),
        ("[{maximize: accuracy}, {minimize: flops_per_token}]", "[]", "objectives: expected a list of 1"),
    ],
)
def test_a_space_is_checked_in_every_alternative(folder: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        changed(folder, old, new)
    assert message in str(caught.value)


def test_a_spec_is_no_space_and_a_space_needs_a_choice(folder: Path) -> None:
    with pytest.raises(SpecError, match="a space, which has a `search:` section"):
        load_space(folder / "tiny.yaml")
    with pytest.raises(SpecError, match="at least one choice, got none"):
        load_space(folder / "tiny.yaml", ["search={objectives: [{maximize: loss}], trials: 1}"])
    with pytest.raises(SpecError, match="training, since a search trains"):
        changed(folder, "train: {lr: {float: [1e-4, 1e-2], log: true}}", "train: null")


def test_search_fields_reach_the_config(space: Space, folder: Path) -> None:
    assert space.search.rungs == (250_000, 1_000_000)
    assert [(goal.direction, goal.metric, goal.is_cost) for goal in space.search.objectives] == [
        ("maximize", "accuracy", False),
        ("minimize", "flops_per_token", True),
    ]
    (baseline,) = space.baselines
    assert (baseline.path, baseline.match) == (str(folder / "tiny.yaml"), ())
    assert arch_hash(baseline.spec) == arch_hash(load(folder / "tiny.yaml"))
    assert load_space(folder / "space.yaml", ["search.rungs={flops: [1T, 2T]}"]).search.marks == (
        1_000_000_000_000,
        2_000_000_000_000,
    )
    more = ["search.time_limit=1.5h", "search.seed=3", "search.sampler=random", "search.keep=0.25"]
    search = load_space(folder / "space.yaml", more).search
    assert (search.time_limit, search.seed, search.sampler, search.keep) == (5400.0, 3, "random", 0.25)


@pytest.mark.parametrize(
    "option", ["let.w.choice=[64]", "model.context=128", "search.rungs=[1M]", "stages.0.recur.choice=[2]"]
)
def test_identity_changes_with_what_decides_a_trial(space: Space, folder: Path, option: str) -> None:
    other = load_space(folder / "space.yaml", [option])
    assert other.identity() != space.identity()
    assert set(other.lines()) ^ set(space.lines())


@pytest.mark.parametrize("option", ["search.trials=99", "search.time_limit=1h", "name=other"])
def test_identity_stays_where_a_search_only_goes_on(space: Space, folder: Path, option: str) -> None:
    assert load_space(folder / "space.yaml", [option]).identity() == space.identity()


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ("{int: [2, 20]}", "got a range of numbers from 2 to 20 (write {choice: [4, 9, 16]})"),
        ("{float: [4, 9]}", "got a range of numbers from 4 to 9 (write {choice: [4, 9]})"),
        ("{int: [5, 8]}", "got a range of numbers from 5 to 8"),
        ("{choice: [4, 12]}", "such as 9 or 16, got 12"),
    ],
)
def test_a_range_holds_no_numbers_that_its_field_refuses(experts: str, message: str) -> None:
    settings = [
        "search={trials: 2, objectives: [{minimize: params}]}",
        "blocks.peer.active=1",
        f"blocks.peer.experts={experts}",
    ]
    with pytest.raises(SpecError) as error:
        load_space("specs/family/peer.yaml", settings)
    (fault,) = error.value.faults
    assert str(fault).startswith("--set blocks.peer.experts=")
    assert str(fault).endswith(message)
    assert "blocks.peer.experts: expected a square" in str(fault)
