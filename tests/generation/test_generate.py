"""Continuing prompts: rows of any length, drawing tokens, where rows end."""

import pytest
import torch
from models import compiled, tokens_for

import composer
from composer.module.generation.sampling import Sampler


@pytest.fixture(scope="module")
def model():
    return compiled(composer.load("specs/family/huginn.yaml")).double()


def test_rows_of_different_lengths_are_continued_as_each_alone(model):
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 1], [3]]
    together = model.generate(prompts, 6, temperature=0)
    for prompt, row in zip(prompts, together, strict=True):
        (alone,) = model.generate([prompt], 6, temperature=0)
        assert torch.equal(row, alone)
        assert row.tolist()[: len(prompt)] == prompt
        assert len(row) == len(prompt) + 6


def test_a_seed_gives_the_same_tokens_and_another_seed_others(model):
    tokens = tokens_for(model.spec, 3, 4)
    before, training = torch.get_rng_state(), model.training
    first = model.generate(tokens, 12, seed=5)
    assert torch.equal(first, model.generate(tokens, 12, seed=5))
    assert not torch.equal(first, model.generate(tokens, 12, seed=6))
    # rows of one prompt differ, and a row does not depend on those after it
    same = model.generate(tokens[:1].expand(3, -1), 12, seed=5)
    assert len({*map(tuple, same.tolist())}) == 3
    assert torch.equal(same[0], first[0])
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training == training


def test_rows_end_after_stops_and_are_filled_up(model):
    tokens = tokens_for(model.spec, 8, 2)
    plain = model.generate(tokens, 12, seed=1)
    stop = int(plain[0, 4])
    pair = plain[1, 5:7].tolist()
    stopped = model.generate(tokens, 12, seed=1, stop=[stop, pair])
    listed = model.generate([*tokens], 12, seed=1, stop=[stop, pair])
    for row, free, alone in zip(stopped.tolist(), plain.tolist(), listed, strict=True):
        ends = [n for n in range(3, 15) if free[n - 1] == stop or (n > 3 and free[n - 2 : n] == pair)]
        end = min(ends, default=14)
        assert alone.tolist() == free[:end]
        assert row == (free[:end] + free[end - 1 : end] * 14)[: stopped.shape[1]]
    assert len(listed[0]) <= 5


def test_tokens_are_drawn_by_their_probabilities_among_the_likeliest():
    logits = torch.tensor([0.0, 3.0, 1.0, 2.5, -1.0]).expand(4000, -1)
    order, shares = [1, 3, 2, 0, 4], torch.softmax(logits[0] / 0.7, -1)
    for options, kept in (({}, 5), ({"top_k": 3}, 3), ({"top_p": 0.7}, 2), ({"top_k": 1, "top_p": 1}, 1)):
        drawn = Sampler(0.7, **options)(logits, 3).bincount(minlength=5) / 4000
        expected = torch.zeros(5)
        expected[order[:kept]] = shares[order[:kept]] / shares[order[:kept]].sum()
        torch.testing.assert_close(drawn, expected, atol=0.03, rtol=0)
    assert Sampler(0)(logits, 3).unique().tolist() == [1]


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[1], []], {}, r"at least one token each, got \[\] among the prompts"),
        ([1, 2], {}, "tokens: expected .* or a list of prompts"),
        (torch.zeros(1, 2), {}, "tokens: expected an integer tensor"),
        ([[99]], {}, "ids from 0 to 15"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens: expected a number from 1, got 0"),
        (
            [[1]],
            {"max_new_tokens": 48},
            r"at most 48 tokens \(model.context\), got prompts of up to 1 and 48",
        ),
        ([[1]], {"temperature": -1}, "temperature: expected a number from 0"),
        ([[1]], {"top_p": 0}, "top_p: expected a number above 0"),
        ([[1]], {"top_k": 0}, "top_k: expected"),
        ([[1]], {"steps": 0}, "expected"),
        ([[1]], {"exit_threshold": 0.5}, "exits"),
    ],
)
def test_what_cannot_be_continued_is_refused(model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(prompts, **{"max_new_tokens": 2, **options})
