"""Random numbers are functions of their key and position, and look random."""

import pytest
import torch
from scipy import stats

from blocks.primitives.random import CUT, bits, derive_key, digest, noise, uniform

KEYS = torch.tensor([digest(str(n)) for n in range(64)])


def test_numbers_are_uniform_within_rows_and_at_one_position_of_all_rows():
    numbers = uniform(KEYS, (40, 25)).flatten(1)
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert stats.kstest(numbers.flatten().numpy(), "uniform").pvalue > 0.01
    many = uniform(torch.tensor([digest(f"row {n}") for n in range(4000)]), (3,))
    assert min(stats.kstest(column.numpy(), "uniform").pvalue for column in many.T) > 0.01


def test_neighbours_steps_places_and_rows_are_uncorrelated():
    numbers = uniform(KEYS, (1000,))
    others = [
        numbers.roll(1, 0),
        numbers.roll(1, 1),
        uniform(derive_key(KEYS, "a", 0), (1000,)),
        uniform(derive_key(KEYS, "a", 1), (1000,)),
        uniform(derive_key(KEYS, "b", 1), (1000,)),
    ]
    related = torch.corrcoef(torch.stack([each.flatten() for each in (numbers, *others)]))
    assert (related - torch.eye(len(related))).abs().max() < 0.015


@pytest.mark.parametrize("bit", [0, 9, 31])
def test_each_bit_is_set_as_often_as_not(bit):
    share = (bits(KEYS, (1000,)) >> bit & 1).double().mean()
    assert share == pytest.approx(0.5, abs=0.01)


def test_a_row_is_the_same_alone_and_longer_and_the_global_state_stays():
    before = torch.get_rng_state()
    whole = uniform(KEYS, (12, 5))
    assert torch.equal(uniform(KEYS[7:9], (12, 5)), whole[7:9])
    assert torch.equal(uniform(KEYS, (4, 5)), whole[:, :4])
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_a_truncated_normal():
    numbers = noise(torch.zeros(64, 50, 20), KEYS, 0.5)
    assert numbers.shape == (64, 50, 20)
    assert numbers.abs().max() <= CUT * 0.5
    expected = stats.truncnorm(-CUT, CUT, scale=0.5)
    assert stats.kstest(numbers.flatten()[::7].numpy(), expected.cdf).pvalue > 0.01
