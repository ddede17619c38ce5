"""The fast path: functions made from traces answer exactly as loading and counting does."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import FULL, samples
from strategies import trees

from composer.costs.counting.plan import count
from composer.costs.tracing.traced_cost import Coster, measures
from composer.language.description.show import document
from composer.language.load import load, loads
from composer.language.schema.template import joined, split
from composer.language.space import draw, load_space
from composer.settings.errors import SpecError

SPECS = Path(__file__).parents[2] / "specs"
SHIPPED = [path.stem for path in sorted(SPECS.glob("*.yaml")) if "space" not in path.stem.split("-")]


def slow(tree):
    """Measures, or what is wrong with the tree, by the way that candidates of a file take."""
    try:
        return measures(count(loads(json.dumps(tree))))
    except SpecError as error:
        return message_of(error)


def fast(coster, tree):
    try:
        return coster(tree)
    except SpecError as error:
        return message_of(error)


def message_of(error):
    return {(fault.path, fault.expected, fault.got, fault.hint) for fault in error.faults}


def other(tree, rng, share=0.2):
    """The tree with some numbers changed: near ones, which mostly stay valid, and wild ones."""

    def changed(number):
        if rng.random() > share:
            return number
        if isinstance(number, float):
            return rng.choice([number / 2, number * 3, 0.5, 0.0, -1.0])
        return rng.choice([number + 1, max(1, number - 1), 2 * number, rng.randint(1, 40), 0, -3, 10**19])

    return joined(tree, map(changed, split(tree)[1]))


def functions(coster):
    return sum(len(known or ()) for known in coster._known.values())


@given(trees(), st.integers(0, 2**32))
@samples(70 if FULL else 35)
def test_generated_trees_cost_what_they_cost_slowly_whatever_numbers_change(tree, seed):
    rng, coster = random.Random(seed), Coster()
    for _ in range(3):
        assert fast(coster, tree) == slow(tree)
    assert functions(coster) == 1
    for _ in range(12):
        candidate = other(tree, rng)
        assert fast(coster, candidate) == slow(candidate)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_specs_cost_what_they_cost_slowly_whatever_numbers_change(name):
    rng, coster, tree = random.Random(name), Coster(), document(load(SPECS / f"{name}.yaml"))
    for candidate in [tree, tree, tree, *(other(tree, rng, 0.05) for _ in range(25))]:
        assert fast(coster, candidate) == slow(candidate)


@pytest.mark.parametrize("name", ["dreamer-tiny", "nested"])
def test_each_number_that_changes_alone_is_honoured(name):
    tree, coster = document(load(SPECS / f"{name}.yaml")), Coster()
    _, numbers = split(tree)
    coster(tree), coster(tree)
    for place, number in enumerate(numbers):
        for changed in (number + 1, 2 * number, 0):
            candidate = joined(tree, iter([*numbers[:place], changed, *numbers[place + 1 :]]))
            assert fast(coster, candidate) == slow(candidate)


def test_points_of_a_space_cost_what_their_specs_cost():
    space, coster, rng = load_space(SPECS / "space.yaml"), Coster(), random.Random(0)
    for _ in range(150):
        point = space.point(lambda tunable: draw(tunable, rng))
        params, tree = space.tree(lambda tunable, answers=point.params: answers[tunable.name])
        assert params == point.params
        assert coster(tree) == measures(count(point.spec))
    # sizes alone never take a second function
    assert {len(known) for known in coster._known.values()} == {1}


def test_numbers_that_are_only_kept_take_no_function_of_their_own():
    tree, coster = document(load(SPECS / "dreamer-tiny.yaml")), Coster()
    for seed in range(9):
        train = {**tree["train"], "seed": seed, "lr": 0.001 * (seed + 1), "tokens": 10**6 + seed}
        coster({**tree, "train": train})
    assert functions(coster) == 1


def test_the_kind_of_a_number_and_the_order_of_keys_belong_to_the_structure():
    tree = document(load(SPECS / "dreamer-tiny.yaml"))
    model, blocks = tree["model"], tree["blocks"]
    others = [
        {**tree, "model": {**model, "context": float(model["context"])}},
        {**tree, "model": {**model, "tie_embeddings": not model["tie_embeddings"]}},
        {**tree, "blocks": dict(reversed(blocks.items()))},
    ]
    structures = {split(each)[0] for each in [tree, *others]}
    assert len(structures) == 4


def test_a_structure_of_too_many_functions_is_counted_slowly_and_rightly(monkeypatch):
    monkeypatch.setattr("composer.costs.tracing.traced_cost._MOST", 2)
    tree, coster = document(load(SPECS / "dreamer-tiny.yaml")), Coster()
    for number in range(8):
        # lists keep their numbers as they are
        candidate = {**tree, "train": {**tree["train"], "betas": [0.9, 0.9 + number / 100]}}
        assert coster(candidate) == slow(candidate)
        if None in coster._known.values():
            break
    assert number == 3


def test_what_cannot_be_traced_is_counted_slowly_and_rightly(monkeypatch):
    def untraceable(self, width):
        assert {int: 1}[type(width)]
        yield from ()

    monkeypatch.setattr("blocks.feed_forward.config.FeedForward.problems", untraceable)
    tree, coster = document(load(SPECS / "looped.yaml")), Coster()
    for _ in range(3):
        assert coster(tree) == slow(tree)
    assert list(coster._known.values()) == [None]


def test_names_and_expressions_are_guarded_not_to_change():
    text = document(load(SPECS / "nested.yaml"))
    coster = Coster()
    for width in (32, 32, 32, 64, 32, 48):
        candidate = {**text, "let": {"w": width}, "model": {**text["model"], "width": "${w}"}}
        assert fast(coster, candidate) == slow(candidate)


def test_only_plain_data_is_taken():
    with pytest.raises(TypeError, match="expected plain data, got set"):
        Coster()({"schema": {1}})
