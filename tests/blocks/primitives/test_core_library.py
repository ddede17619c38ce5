"""The operators of `blocks.primitives`: torch's own checks, and gradients."""

import pytest
import torch
from core_kernels import drawn, exact_add_norm, exact_rotary, table_for
from depth_kernels import check

library = pytest.importorskip("blocks.primitives.library", exc_type=ImportError)


@pytest.fixture
def device(where):
    torch.use_deterministic_algorithms(False)  # opcheck compares what was never written
    return where


def test_sum_and_norm_pass_the_checks_of_torch_and_have_the_gradients_of_fp64(device):
    shape = (1, 3, 12)
    a, b, of_norm, of_total, gain = drawn([shape] * 4 + [(12,)], device=device)
    leaves = [each.clone().requires_grad_() for each in (a, b, gain)]
    torch.library.opcheck(library.add_norm, (*leaves, torch.float32))
    made = library.add_norm(*leaves, torch.float32)
    given = (of_norm, of_total, made[1].detach(), gain, torch.float32, torch.float32)
    torch.library.opcheck(library.add_norm_backward, given)
    torch.library.opcheck(library.add_norm_backward, (None, *given[1:5], torch.float64))
    got = torch.autograd.grad(made, leaves, [of_norm, of_total])
    check([*(each.detach() for each in made), *got], exact_add_norm(a, b, gain, of_norm, of_total), a.dtype)


def test_rotated_heads_with_and_without_a_norm_do_too(device):
    shape = (1, 3, 2, 8)
    x, gradient, gain = drawn([shape, shape, (8,)], device=device)
    table, leaves = table_for(shape, device), [each.clone().requires_grad_() for each in (x, gain)]
    torch.library.opcheck(library.rotate, (leaves[0], table))
    torch.library.opcheck(library.rotate_backward, (gradient, table))
    torch.library.opcheck(library.norm_rotate, (leaves[0], table, leaves[1]))
    torch.library.opcheck(library.norm_rotate_backward, (gradient, table, x, gain))
    made = library.norm_rotate(leaves[0], table, leaves[1])
    got = torch.autograd.grad(made, leaves, gradient)
    check([made.detach(), *got], exact_rotary(x, gain, table, gradient), x.dtype)
