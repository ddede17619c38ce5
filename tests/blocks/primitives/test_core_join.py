"""Joined products: columns begin where a GPU wants them, and nothing else changes."""

import pytest
import torch
from cases import CASES
from models import close, compiled, gradients, tokens_for

from blocks.primitives import reference

SIZES = [(3, 2), (16,), (5,), (2, 16), (1,)]


@pytest.fixture
def aligned(monkeypatch):
    monkeypatch.setattr(reference, "alignment", lambda weight: 16)


def test_each_part_begins_at_a_multiple_and_strides_are_multiples(aligned):
    weights = [torch.randn(torch.Size(shape).numel(), 7) for shape in SIZES]
    (joined,) = reference.join(*weights)
    x = torch.randn(2, 3, 7)
    parts = reference.project_joined(x, joined, SIZES)
    for part, weight, shape in zip(parts, weights, SIZES, strict=True):
        assert part.storage_offset() % 16 == part.stride(1) % 16 == 0
        torch.testing.assert_close(part, (x @ weight.T).unflatten(-1, shape))


@pytest.mark.parametrize("case", ["dreamer", "parallel, gate"])
def test_models_are_the_same(case, monkeypatch):
    model = compiled(CASES[case])
    tokens = tokens_for(model.spec)
    wanted = gradients(model, tokens)
    monkeypatch.setattr(reference, "alignment", lambda weight: 16)
    close(gradients(model, tokens), wanted)


def test_on_a_cpu_nothing_is_added():
    weights = [torch.randn(rows, 7) for rows in (3, 16, 5)]
    (joined,) = reference.join(*weights)
    assert torch.equal(joined, torch.cat(weights))
