"""How many examples a hypothesis test draws, and which pairs of parameters the short run has."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import settings

FULL = bool(os.environ.get("COMPOSER_FULL_TESTS"))


def samples(full: int, **others: Any) -> settings:
    """Draw `full` examples under `--full`, a fifth of them otherwise."""
    return settings(max_examples=full if FULL else max(2, full // 5), **others)


def some(names: Iterable[str], share: int) -> Iterator[Any]:
    """Yield every name, as a parameter; the short run has one of `share` of them."""
    for number, name in enumerate(names):
        yield pytest.param(name, marks=[pytest.mark.slow] * (number % share != 0))


def pairs(
    names: Iterable[str],
    checks: Collection[str],
    share: int = 3,
    group: Callable[[str], object] = lambda name: None,
    quick: Mapping[str, Collection[str]] = {},
) -> Iterator[Any]:
    """Yield every name with every check, as parameters; the short run has one of `share` of them.

    Each name then has some of the checks, and each check some of the names of each group: all of them in a
    group of one. `quick` names the checks that the short run has of its names alone.
    """
    names = [*names]
    members, seen = Counter(map(group, names)), Counter[object]()
    for name in names:
        number, every = seen[group(name)], min(members[group(name)], share)
        seen[group(name)] += 1
        for place, check in enumerate(checks):
            runs = name in quick[check] if check in quick else (number + place) % every == 0
            yield pytest.param(name, check, marks=[] if runs else [pytest.mark.slow])
