"""Continuing prompts: rows of any length, drawing tokens, where rows end."""

import copy
import math

import pytest
import torch
from models import compiled, tokens_for

import composer
from composer.module.generation.finite_logits import FiniteLogits
from composer.module.generation.sampling import Sampler
from composer.module.generation.stop import as_stop


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


NONE = -float("inf")
LOGITS = {
    "ties": [1.0, 3.0, 3.0, 0.5, 3.0, 1.0],
    "impossible ones": [NONE, 2.0, NONE, 1.5, -4.0, NONE],
    "one": [NONE, NONE, 0.0, NONE, NONE, NONE],
    "even": [2.0] * 6,
    "far apart": [0.0, 400.0, 399.0, -400.0, 398.5, 10.0],
}


def shares_by_hand(logits, temperature, top_k, top_p):
    """The probability of each token, in plain Python; of equal ones those with lower numbers go first."""
    largest = max(logits)
    each = [math.exp((logit - largest) / temperature) for logit in logits]
    kept = sorted(range(len(each)), key=lambda token: (-each[token], token))[: top_k or len(each)]
    total, before, chosen = sum(each[token] for token in kept), 0.0, []
    for token in kept:
        if top_p is None or before < top_p * total * (1 - 1e-12):
            chosen.append(token)
        before += each[token]
    total = sum(each[token] for token in chosen)
    return [each[token] / total if token in chosen else 0.0 for token in range(len(each))]


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("temperature", [1e-300, 0.6, 1.0, 50.0])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(None, None), (2, None), (9, 1.0), (None, 1e-9), (3, 0.6), (None, 0.8)]
)
def test_probabilities_are_those_by_hand(name, temperature, top_k, top_p):
    # equal tokens may be taken in any order, so their probabilities are compared sorted
    logits = torch.tensor([LOGITS[name]])
    shares, tokens = Sampler(temperature, top_k, top_p)._shares(logits)
    results = [0.0] * 6
    for token, share in zip(
        range(6) if tokens is None else tokens[0].tolist(), shares[0].tolist(), strict=True
    ):
        results[token] += share / shares.sum().item()
    wanted = shares_by_hand(LOGITS[name], temperature, top_k, top_p)
    assert sorted(results) == pytest.approx(sorted(wanted), abs=1e-12)
    for logit in {*LOGITS[name]}:
        alike = [n for n in range(6) if LOGITS[name][n] == logit]
        assert sum(results[n] for n in alike) == pytest.approx(sum(wanted[n] for n in alike), abs=1e-12)


@pytest.mark.parametrize("drawn", [-1e-9, 0.0, 1.0 - 2**-53, 1.0])
def test_no_rounding_draws_a_token_that_is_left_out(drawn, monkeypatch):
    monkeypatch.setattr(
        Sampler, "_uniform", lambda self, _, logits: torch.full((len(logits),), drawn).double()
    )
    logits = torch.tensor([LOGITS["impossible ones"]])
    for options, possible in (({}, {1, 3, 4}), ({"top_k": 2}, {1, 3}), ({"top_p": 0.1}, {1})):
        assert Sampler(1.0, **options)(logits, 0).item() in possible


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
        ([[1]], {"temperature": float("inf")}, "temperature: expected a number from 0"),
        ([[1]], {"stop": [3, []]}, "stop: expected tokens or sequences of at least one token"),
        ([[1]], {"stop": 16}, r"stop: expected tokens from 0 to 15 \(model.vocab is 16\), got 16"),
        ([[1]], {"stop": [1, [2, -1]]}, "stop: expected tokens from 0 to 15 .*, got -1"),
        ([[1]], {"stop": "1"}, "stop: expected tokens or sequences .*, got '1'"),
        ([[1]], {"stop": [1.5]}, r"stop: expected tokens or sequences .*, got \[1\.5\]"),
        ([[1]], {"top_p": 0}, "top_p: expected a number above 0"),
        ([[1]], {"top_k": 0}, "top_k: expected"),
        ([[1]], {"steps": 0}, "expected"),
        ([[1]], {"exit_threshold": 0.5}, "exits"),
    ],
)
def test_what_cannot_be_continued_is_refused(model, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        model.generate(prompts, **{"max_new_tokens": 2, **options})


@pytest.mark.parametrize("kind", [list, tuple, set, torch.tensor, lambda each: torch.tensor(each).numpy()])
def test_stops_may_be_given_in_any_collection(kind):
    assert sorted(as_stop(kind([3, 1]), 16)) == [[1], [3]]
    assert as_stop([kind([3, 3])], 16) == [[3] if kind is set else [3, 3]]


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(temperature, value):
    model = compiled(composer.load("specs/family/huginn.yaml", ["model.tie_embeddings=false"]))
    with torch.no_grad():
        model.get_parameter("embedding")[7] = value  # read once a row has the token
    message = r"for the token at position 4 \(from 0\) of row 1, got NaN or inf: weights are .*: embedding$"
    with pytest.raises(ValueError, match=message):
        model.generate([[1, 2, 3], [1, 2, 3, 7, 4]], 3, temperature=temperature)


def test_finite_weights_that_overflow_are_told_apart(model):
    large = copy.deepcopy(model).float()
    with torch.no_grad():
        large.get_parameter("norm").fill_(3e38)
    with pytest.raises(ValueError, match=r"position 2 .*: all weights are finite, but large"):
        large.generate([[1, 2]], 3)


def test_a_row_that_has_ended_may_go_on_to_anything():
    noted = FiniteLogits(torch.nn.Linear(1, 1), 3, torch.device("cpu"))
    for position, row in ((4, 0), (5, 1), (6, 0)):
        logits = torch.zeros(3, 5)
        logits[row, 2] = float("nan")
        noted.note(logits, position)
    noted.check([4, 5, 0])
    with pytest.raises(ValueError, match=r"position 5 \(from 0\) of row 1"):
        noted.check([4, 0, 0])
