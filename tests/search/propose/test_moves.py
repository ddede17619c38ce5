"""Moves stay inside the space, change what they say, and say what they change."""

from __future__ import annotations

import random
from typing import Any

import pytest
from generated_spaces import spaces
from hypothesis import given
from hypothesis import strategies as st
from samples import samples

from composer.language.parsing.choice import SearchParameter
from composer.language.space import Space, draw
from search.propose.moves import Parent, branch_of, crossed, inherit, moved, mutated, words


def point(space: Space, rng: random.Random) -> dict[str, Any]:
    return space.tree(lambda parameter: draw(parameter, rng))[0]


@st.composite
def families(drawn: st.DrawFn) -> tuple[Space, list[dict[str, Any]], random.Random]:
    space, rng = drawn(spaces()), random.Random(drawn(st.integers(0, 10**6)))
    return space, [point(space, rng) for _ in range(2)], rng


@samples(25, deadline=None)
@given(families())
def test_children_answer_what_the_space_asks_and_nothing_else(family):
    space, (first, second), rng = family
    parameters = {parameter.name: parameter for parameter in space.parameters}
    crossing = crossed(first, second, rng)
    for answers in (mutated(first, parameters, rng, 2), crossing or second):
        child, _ = space.tree(inherit(rng, answers))
        assert all(parameters[name].holds(value) for name, value in child.items())
        again, _ = space.tree(lambda parameter, child=child: child[parameter.name])
        assert again == child


@samples(25, deadline=None)
@given(families())
def test_one_mutation_changes_one_answer_and_what_is_asked_because_of_it(family):
    space, (parent, _), rng = family
    parameters = {parameter.name: parameter for parameter in space.parameters}
    child, _ = space.tree(inherit(rng, mutated(parent, parameters, rng)))
    changed = [name for name in child if name in parent and child[name] != parent[name]]
    descriptions = words(child, [Parent("3", parent)])
    assert len(changed) == 1
    assert sum(" -> " in text for text in descriptions) == 1
    assert (
        sum(text.endswith("(new)") for text in descriptions)
        == len(child.keys() - parent.keys())
        == len(descriptions) - 1
    )


@samples(25, deadline=None)
@given(families())
def test_a_crossover_takes_whole_branches_from_either_parent_and_names_them(family):
    space, (first, second), rng = family
    answers = crossed(first, second, rng)
    branches = {branch_of(name) for name in second}
    differ = {b for b in branches if part(first, b) != part(second, b)}
    if answers is None:
        assert len(differ) < 2
        return
    child, _ = space.tree(inherit(rng, answers))
    for branch in {branch_of(name) for name in child}:
        own, parents = part(child, branch), [part(parent, branch) for parent in (first, second)]
        inherited = {name: own[name] for name in own if any(name in parent for parent in parents)}
        assert any(inherited.items() <= parent.items() for parent in parents)
    descriptions = words(child, [Parent("3", first), Parent("7", second)])
    if child != first:
        assert descriptions
        assert descriptions[0].startswith("crossover of trials 3 and 7: ") or all(
            "new" in text for text in descriptions
        )


def part(params: dict[str, Any], branch: str) -> dict[str, Any]:
    return {name: value for name, value in params.items() if branch_of(name) == branch}


PARAMETERS = [
    SearchParameter("a", "categorical", (1, 2, "x")),
    SearchParameter("a", "categorical", (False, True)),
    SearchParameter("a", "int", low=1, high=2),
    SearchParameter("a", "int", low=16, high=128, step=16),
    SearchParameter("a", "int", low=1, high=1000, log=True),
    SearchParameter("a", "float", low=-1.0, high=1.0),
    SearchParameter("a", "float", low=1e-5, high=1.0, log=True),
]


@samples(25, deadline=None)
@given(parameter=st.sampled_from(PARAMETERS), seed=st.integers(0, 10**6))
def test_a_moved_answer_is_another_answer_to_the_same_question(parameter, seed):
    rng = random.Random(seed)
    value = draw(parameter, rng)
    new = moved(parameter, value, rng)
    assert parameter.holds(new)
    assert new != value


def test_steps_on_a_range_are_mostly_short_and_reach_both_ends_in_time():
    parameter, rng = SearchParameter("a", "int", low=0, high=100), random.Random(0)
    steps = [int(moved(parameter, 50, rng)) - 50 for _ in range(2000)]
    assert sum(abs(step) <= 20 for step in steps) > 1500
    assert {parameter.holds(50 + step) for step in steps} == {True}
    assert 0 not in steps
    value, seen = 50, set()
    for _ in range(500):
        value = int(moved(parameter, value, rng))
        seen.add(value)
    assert {0, 100} & seen
    assert len(seen) > 60


@pytest.mark.parametrize(
    ("child", "message"),
    [
        ({"blocks.depth.kv_heads": 4}, ["depth: kv_heads 2 -> 4"]),
        ({"stages.0.step": "dreamer"}, ["step: plain -> dreamer"]),
        ({"stages.1.stack": 3}, ["stage 1: stack 2 -> 3"]),
        ({"train.lr": 0.00123456}, ["train: lr 0.01 -> 0.00123"]),
        ({"stages.0.step[side].0.combine": "gate"}, ["step[side].0.combine: gate (new)"]),
        (
            {"let.w": 16, "model.tie_embeddings": False},
            ["let: w 8 -> 16", "model: tie_embeddings true -> false"],
        ),
    ],
)
def test_moves_are_told_in_words(child, message):
    parent = {
        "blocks.depth.kv_heads": 2,
        "stages.0.step": "plain",
        "stages.1.stack": 2,
        "train.lr": 0.01,
        "let.w": 8,
        "model.tie_embeddings": True,
    }
    assert words({**parent, **child}, [Parent("3", parent)]) == message


def test_a_crossover_is_told_with_its_branches_and_what_was_changed_besides():
    first = {"blocks.expert.experts": 4, "blocks.expert.active": 1, "stages.0.step": "plain", "train.lr": 1.0}
    second = {
        "blocks.expert.experts": 8,
        "blocks.expert.active": 2,
        "stages.0.step": "side",
        "stages.0.step[side].0.combine": "sum",
        "train.lr": 2.0,
    }
    parents = [Parent("3", first), Parent("7", second)]
    swapped = {**first, "blocks.expert.experts": 8, "blocks.expert.active": 2, "train.lr": 0.5}
    assert words(swapped, parents) == ["crossover of trials 3 and 7: expert.* from 7", "train: lr 1 -> 0.5"]
    branch = {**second, "blocks.expert.experts": 4, "blocks.expert.active": 1, "train.lr": 1.0}
    assert words(branch, parents) == ["crossover of trials 3 and 7: step from 7"]
    assert words(first, []) == ["a random point"]
