"""The fast path: functions made from traces answer exactly as loading and counting does."""

import json
import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import trees

from composer.costs.count import count
from composer.costs.fast import Coster, measures
from composer.spec.errors import SpecError
from composer.spec.load import loads
from composer.spec.skeleton import joined, split

SPECS = Path(__file__).parents[2] / "specs"
SHIPPED = [path for path in sorted(SPECS.glob("*.yaml")) if path.name != "space.yaml"]


def slow(tree):
    """Measures, or what is wrong with the tree, by the way that candidates of a file take."""
    try:
        return measures(count(loads(json.dumps(tree))))
    except SpecError as error:
        return told(error)


def fast(coster, tree):
    try:
        return coster(tree)
    except SpecError as error:
        return told(error)


def told(error):
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
@settings(max_examples=60, deadline=None)
def test_generated_trees_cost_what_they_cost_slowly_whatever_numbers_change(tree, seed):
    rng, coster = random.Random(seed), Coster()
    for _ in range(3):
        assert fast(coster, tree) == slow(tree)
    assert functions(coster) == 1
    for _ in range(12):
        candidate = other(tree, rng)
        assert fast(coster, candidate) == slow(candidate)
