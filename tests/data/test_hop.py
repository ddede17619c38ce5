import re
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from composer.data.base.stream import IGNORED, held_out
from composer.data.tasks.hop import Hop
from composer.testing.tasks import CHECKS

SIZES = [Hop(), Hop(length=16, symbols=3, hops=0), Hop(length=33, symbols=9, hops=7), Hop(length=12, hops=1)]


def naive_target(symbols, position, k):
    for _ in range(k):
        previous = [p for p in range(position) if symbols[p] == symbols[position]]
        if not previous:
            return IGNORED
        position = previous[-1] + 1
    return symbols[position]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("config", SIZES, ids=repr)
def test_it_conforms(config, check):
    CHECKS[check](config)


@pytest.mark.parametrize("config", SIZES, ids=repr)
def test_the_symbols_alone_say_which_split_a_sequence_is_of(config):
    for split in ("train", "eval"):
        symbols = config.stream(split, 1).batch(2, 300).tokens[:, 1:]
        assert (held_out(symbols) == (split == "eval")).all()


@given(st.integers(3, 6), st.integers(0, 6), st.integers(9, 40), st.integers(0, 2**40))
def test_targets_equal_the_definition_read_literally(symbols, hops, length, seed):
    config = Hop(length=length + 5, symbols=symbols, hops=hops)
    batch = config.stream("train", seed).batch(seed % 7, 5)
    for tokens, targets, group in zip(*(rows.tolist() for rows in batch), strict=True):
        assert tokens[0] == symbols + group
        row = tokens[1:]
        assert set(row) <= set(range(symbols))
        assert targets == [IGNORED, *(naive_target(row, p, group) for p in range(len(row)))]


def test_no_two_neighbours_are_equal_and_all_others_are_equally_likely():
    tokens = Hop(symbols=4).stream("train", 0).batch(0, 2000).tokens[:, 1:]
    pairs = np.zeros((4, 4))
    np.add.at(pairs, (tokens[:, :-1].ravel(), tokens[:, 1:].ravel()), 1)
    assert np.all(np.diag(pairs) == 0)
    assert np.abs(pairs[~np.eye(4, dtype=bool)] / pairs.sum() - 1 / 12).max() < 0.003


def test_a_k_of_zero_is_scored_at_every_symbol():
    batch = Hop(hops=0).stream("train", 0).batch(0, 20)
    assert np.array_equal(batch.targets[:, 1:], batch.tokens[:, 1:])


def test_every_k_is_as_frequent_and_eval_has_it_balanced():
    train, test = (Hop(hops=4).stream(split, 0).batch(3, 1000).group for split in ("train", "eval"))
    assert np.abs(np.bincount(train) - 200).max() < 60
    assert np.bincount(test).tolist() == [200] * 5


def test_no_symbols_of_eval_are_seen_in_training_under_another_k():
    config = Hop(length=9, symbols=3, hops=3)  # 384 rows of symbols, so both splits see all of theirs
    train, test = (
        config.stream(split, 0).batch(0, 4000).tokens[:, 1:].tolist() for split in ("train", "eval")
    )
    rows = set(map(tuple, train)), set(map(tuple, test))
    assert len(rows[0] | rows[1]) == 3 * 2**7
    assert not rows[0] & rows[1]


def test_groups_are_named_by_k_and_bytes_mean_nothing():
    assert Hop(hops=2).group_names == {0: "k0", 1: "k1", 2: "k2"}
    assert Hop().bytes_per_token is None


@pytest.mark.parametrize("bad", [{"symbols": 2}, {"hops": -1}, {"length": 0}, {"depth": 3}, {"task": "text"}])
def test_refuses_fields_out_of_range(bad):
    with pytest.raises(ValidationError):
        Hop(**bad)


@pytest.mark.parametrize(
    ("config", "vocab", "context", "expected"),
    [
        (Hop(), 9, 48, []),
        (Hop(), 8, 48, [("task", "at most model.vocab \\(8\\)")]),
        (Hop(), 9, 47, [("length", "at most model.context \\(47\\)")]),
        (Hop(length=20, hops=18), 32, 48, [("length", "hops \\+ 3 \\(21\\)")]),
        (Hop(length=12, symbols=3), 32, 48, [("length", "4096 different sequences")]),
        (Hop(length=13, symbols=3), 32, 48, []),
    ],
)
def test_problems_name_what_does_not_fit(config, vocab, context, expected):
    got = list(config.problems(SimpleNamespace(vocab=vocab, context=context)))
    assert [problem.key for problem in got] == [key for key, _ in expected]
    for problem, (_, text) in zip(got, expected, strict=True):
        assert re.search(text, problem.expected)
