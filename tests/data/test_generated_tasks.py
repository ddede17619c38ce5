"""Generated tasks: each target is what an independent reading of the sequence gives."""

from __future__ import annotations

from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest

from composer.data.base.errors import DataError
from composer.data.base.groups import of_groups
from composer.data.base.stream import held_out
from composer.data.find import data_tasks
from composer.testing.tasks import CHECKS

OTHER = {
    "addition": {"length": 33, "digits": 3},
    "chains": {"length": 11, "modulus": 5, "steps": 4},
    "depo": {"length": 20, "nodes": 6, "hops": 5},
    "group_word": {"length": 8, "group": "A4"},
    "mano": {"length": 11, "modulus": 11, "operators": 4},
    "mqar": {"length": 13, "pairs": 4, "keys": 16, "values": 20},
    "sudoku": {"length": 40, "blanks": 12},
}
CASES = [(name, fields) for name, other in OTHER.items() for fields in ({}, other)]


def batch(name, fields, split, size=60):
    config = data_tasks()[name](**fields)
    return config, config.stream(split, 1).batch(2, size)


def test_every_generated_task_is_here():
    made = {name for name, config in data_tasks().items() if "path" not in config.model_fields}
    assert made == {*OTHER, "hop"}


@pytest.mark.parametrize(("name", "fields"), CASES, ids=str)
def test_it_conforms(name, fields):
    for check in CHECKS.values():
        check(data_tasks()[name](**fields))


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize(("name", "fields"), CASES, ids=str)
def test_targets_are_what_the_sequence_says(name, fields, split):
    config, result = batch(name, fields, split)
    for tokens, targets, group in zip(*(rows.tolist() for rows in result), strict=True):
        wanted = READERS[name](config, tokens, group, split)
        assert {i: target for i, target in enumerate(targets) if target != -100} == wanted
    if split == "eval":
        counts = np.unique(result.group, return_counts=True)[1]
        assert len(counts) == len(config.group_names)
        assert counts.max() - counts.min() <= 1


def read_addition(config, tokens, group, split):
    end = tokens.index(11)
    a, b = (int("".join(map(str, tokens[i : i + group]))) for i in (0, group + 1))
    assert (tokens[group], end, tokens[3 * group + 3 :]) == (
        10,
        2 * group + 1,
        [12] * (config.length - 3 * group - 3),
    )
    digits = [int(digit) for digit in reversed(f"{a + b:0{group + 1}}")]
    assert tokens[end + 1 : end + 2 + group] == digits
    return {end + i: digit for i, digit in enumerate(digits)}


def read_chains(config, tokens, group, split):
    p, end = config.modulus, tokens.index(config.modulus + 3)
    assert (end, set(tokens[end + 1 :]) <= {p + 4}) == (2 * group + 1, True)
    value = tokens[0]
    for op, y in zip(tokens[1:end:2], tokens[2:end:2], strict=True):
        value = eval(f"({value} {'+-*'[op - p]} {y}) % {p}")
    return {end: value}


def read_depo(config, tokens, group, split):
    n = config.nodes
    after = dict(zip(tokens[: 2 * n : 2], tokens[1 : 2 * n : 2], strict=True))
    start, seen = 0, set()
    while start not in seen:
        seen.add(start)
        start = after[start]
    assert len(seen) == n
    wanted = {}
    for place in range(2 * n, config.length - 2, 3):
        mark, asked, answer = tokens[place : place + 3]
        assert mark == n + group - 1
        reached = asked
        for _ in range(group):
            reached = after[reached]
        assert answer == reached
        wanted[place + 1] = reached
    return wanted


def read_group_word(config, tokens, group, split):
    points = [*permutations(range(int(config.group[1])))]
    if config.group[0] == "A":
        points = [p for p in points if np.linalg.det(np.eye(len(p))[list(p)]) > 0]
    product, wanted = [*range(len(points[0]))], {}
    for i, token in enumerate(tokens):
        # g after the product so far
        product = [points[token][place] for place in product]
        wanted[i] = points.index(tuple(product))
    return {group - 1: wanted[group - 1]} if split == "eval" else wanted


def read_mano(config, tokens, group, split):
    p, end = config.modulus, tokens.index(config.modulus + 3)
    assert tokens[0] == p + 4 + group
    assert end == 2 * group + 2
    assert set(tokens[end + 1 :]) <= {p + 4}
    rest = iter(tokens[1:end])

    def value():
        token = next(rest)
        if token < p:
            return token
        a, b = value(), value()
        return [a + b, a - b, a * b][token - p] % p

    result = value()
    assert next(rest, None) is None
    return {end: result}


def read_mqar(config, tokens, group, split):
    pairs = dict(zip(tokens[: 2 * group : 2], tokens[1 : 2 * group : 2], strict=True))
    assert sorted(pairs) == sorted(tokens[2 * group : 3 * group])
    assert len(pairs) == group
    assert set(tokens[3 * group :]) <= {config.keys + config.values}
    return {place: pairs[tokens[place]] for place in range(2 * group, 3 * group)}


def read_sudoku(config, tokens, group, split):
    puzzle = tokens[:16]
    assert puzzle.count(0) == group
    results = [*solve(puzzle)]
    assert len(results) == 1
    assert tokens[16:32] == [5, *results[0][:-1]]
    assert set(tokens[32:]) <= {0}
    return {16 + cell: digit for cell, digit in enumerate(results[0]) if puzzle[cell] == 0}


def solve(puzzle):
    """Yield every way to fill the first blank and then the others."""
    if 0 not in puzzle:
        yield puzzle
        return
    cell = puzzle.index(0)
    row, column = divmod(cell, 4)
    near = {puzzle[4 * row + i] for i in range(4)} | {puzzle[4 * i + column] for i in range(4)}
    near |= {puzzle[4 * (row // 2 * 2 + i) + column // 2 * 2 + j] for i in range(2) for j in range(2)}
    for digit in {1, 2, 3, 4} - near:
        yield from solve([*puzzle[:cell], digit, *puzzle[cell + 1 :]])


READERS = {name.removeprefix("read_"): value for name, value in globals().items() if name.startswith("read_")}


@pytest.mark.parametrize(
    ("name", "fields", "key"),
    [
        ("addition", {"length": 10}, "length"),
        ("chains", {"length": 10}, "length"),
        ("depo", {"length": 26}, "length"),
        ("depo", {"nodes": 5, "hops": 5}, "hops"),
        ("mano", {"length": 22}, "length"),
        ("mqar", {"length": 23}, "length"),
        ("mqar", {"length": 60, "pairs": 20, "keys": 16}, "keys"),
    ],
)
def test_what_does_not_fit_is_refused(name, fields, key):
    result = data_tasks()[name](**fields).problems(SimpleNamespace(vocab=1000, context=1000))
    assert [problem.key for problem in result] == [key]


def test_a_difficulty_with_too_few_sequences_is_refused_instead_of_searched_for_ever():
    split = "train" if held_out(np.zeros((1, 4), np.int64))[0] else "eval"
    with pytest.raises(DataError, match=f"too few distinct sequences of difficulty 3.*{split}"):
        of_groups(split, np.array([3, 3]), lambda some: np.zeros((len(some), 4), np.int64))
