import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer.data.base.errors import DataError
from composer.data.base.stream import generator, held_out, sample


def test_about_one_row_in_sixteen_is_held_out():
    rows = generator("train", 0, 0).integers(0, 4, (64_000, 20))
    assert abs(held_out(rows).mean() - 1 / 16) < 0.005


@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(2, 300))
def test_membership_depends_on_the_row_alone(seed, width, vocab):
    rows = np.random.default_rng(seed).integers(0, vocab, (40, width))
    alone = [held_out(row[None])[0] for row in rows]
    assert held_out(rows).tolist() == alone
    assert held_out(rows[::-1]).tolist() == alone[::-1]


def test_membership_is_the_same_for_ever():
    # a stored run is scored on what it has not trained on only while these rows stay where they are
    rows = np.arange(640).reshape(32, 20)
    assert np.flatnonzero(held_out(rows)).tolist() == [8, 20]


def test_generators_of_split_seed_and_step_are_unlike():
    places = [(split, seed, step) for split in ("train", "eval") for seed in range(3) for step in range(3)]
    draws = {tuple(generator(*place).integers(0, 2**40, 3)) for place in places}
    assert len(draws) == len(places)
    assert tuple(generator("train", 1, 2).integers(0, 2**40, 3)) in draws


def test_a_task_with_too_few_sequences_is_refused_instead_of_searched_for_ever():
    row = np.array([[1, 2, 3]])
    split = "train" if held_out(row)[0] else "eval"
    with pytest.raises(DataError, match=f"too few distinct sequences.*{split}"):
        sample(split, 4, lambda n: row.repeat(n, 0))
