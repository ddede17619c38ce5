"""Random changes of valid specs, as plain data: keys, values and whole parts of other specs."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from composer.costs.counting.plan import count
from composer.language.description.show import resolved_yaml
from composer.language.load import load

SPECS = Path(__file__).parents[3] / "specs"
ODD: list[Any] = [
    *(None, True, False, 0, 1, 2, 3, -1, 7, 64, 0.5, 1e-9, 1e30, 10**19, "", "none", "all", "1/steps"),
    *("::2", "1:", "-1:", "99:", "4Ki", "2M", "${w}", "x" * 200, "é", [], {}, [[]], {"": 1}, {"a": {}}),
]
"""Values that fit few places."""
LARGEST = 300_000
"""Parameters of specs that mutants are made from, and of mutants that are trained."""


@cache
def corpus() -> list[dict[str, Any]]:
    """Return small shipped specs as plain data, with every field written out."""
    results = []
    for path in sorted(SPECS.rglob("*.yaml")):
        if "\nsearch:" not in path.read_text(encoding="utf-8") and path.parent.name != "studies":
            spec = load(path)
            if count(spec).params <= LARGEST:
                results.append(yaml.safe_load(resolved_yaml(spec)))
    return results


@cache
def _parts() -> list[tuple[str | int, Any]]:
    """Return every value of the corpus with its key."""
    return [
        (path[-1], held)
        for tree in corpus()
        for path in _paths(tree)
        for held in [_at(tree, path)]
        if path[0] != "name"
    ]


@cache
def _keys() -> list[str]:
    return sorted({key for key, _ in _parts() if isinstance(key, str)})


def mutant(seed: int) -> str:
    """Return one changed spec as JSON, which is YAML too."""
    draw = Random(seed)
    tree = copy.deepcopy(draw.choice(corpus()))
    for _ in range(draw.choice((1, 1, 2, 3))):
        _change(tree, draw)
    return json.dumps(tree)


def _change(tree: dict[str, Any], draw: Random) -> None:
    paths = [*_paths(tree)]
    if not paths:
        return
    path = draw.choice(paths)
    parent, key = _at(tree, path[:-1]), path[-1]
    match draw.randrange(8):
        case 0:
            del parent[key]
        case 1:
            parent[key] = draw.choice(ODD)
        case 2 | 3:  # a value that some spec has under this key
            same = [held for name, held in _parts() if name == key]
            parent[key] = copy.deepcopy(draw.choice(same or ODD))
        case 4:  # a value of another key
            parent[key] = copy.deepcopy(draw.choice(_parts())[1])
        case 5:
            if isinstance(parent, dict):
                parent[draw.choice(_keys())] = parent.pop(key)
            else:
                draw.shuffle(parent)
        case 6:  # one more key or item
            name, held = draw.choice(_parts())
            if isinstance(parent, dict):
                parent[str(name)] = copy.deepcopy(held)
            else:
                parent.insert(draw.randrange(len(parent) + 1), copy.deepcopy(draw.choice(parent)))
        case 7:
            number = parent[key]
            if isinstance(number, int | float) and not isinstance(number, bool):
                parent[key] = draw.choice((-number, number * 2, number + 1, number // 2, number * 10**9))
            else:
                parent[key] = [number]


def _paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in items:
        yield from _paths(held, (*path, key))


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        value = value[key]
    return value
