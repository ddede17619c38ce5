"""Projections with a low-rank adapter of each step."""

import pytest
import torch

from blocks.primitives import by_onednn, reference

STEPS, RANK, FAN_IN = 3, 2, 20


def drawn(bias):
    weights = [torch.randn(12, FAN_IN), torch.randn(STEPS * RANK, FAN_IN), torch.randn(STEPS * 12, RANK)]
    return weights + [torch.randn(12)] * bias


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tokens", [1, 7, 8, 30])
@pytest.mark.parametrize("module", [reference, by_onednn])
def test_an_adapted_projection_is_that_by_both_factors_for_few_and_many_tokens(module, tokens, bias):
    weight, down, up, *shift = drawn(bias)
    x = torch.randn(1, tokens, 4, 5)
    a, b = down[RANK : 2 * RANK], up[12:24]
    expected = (x.flatten(2) @ weight.T + x.flatten(2) @ a.T @ b.T + sum(shift)).view(1, tokens, 3, 4)
    prepared = reference.by_step(weight, down, up, *shift)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            got = module.project_adapted(x, *prepared, shape=(3, 4), index=1)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


def test_adapters_are_added_in_fp32_under_autocast():
    """Only the sum is rounded to bf16: 1 + 2^-9 + 2^-8 to 1 + 2^-7, where its parts would be to 1."""
    weight, down, up = torch.tensor([[1 + 2**-9]]), torch.ones(1, 1), torch.tensor([[2**-8]])
    with torch.autocast("cpu", torch.bfloat16):
        prepared = reference.by_step(weight, down, up)
        y = reference.project_adapted(torch.ones(1, 1, 1), *prepared, shape=(1,), index=0)
    assert y.item() == 1 + 2**-7
