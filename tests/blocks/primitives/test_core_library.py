"""The operators of `blocks.primitives`: torch's own checks, and gradients."""

import pytest
import torch
from core_kernels import drawn, exact_add_norm, exact_rotary, table_for
from depth_kernels import check

fused = pytest.importorskip("blocks.primitives.fused", exc_type=ImportError)
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


def test_torch_compile_traces_functions_with_their_operators_as_one_graph(device, monkeypatch):
    monkeypatch.setattr(fused, "fits", lambda *tensors: True)
    shape = (1, 3, 2, 8)
    x, y, gradient, gain = drawn([shape, shape, shape, (8,)], device=device)
    table, leaves = table_for(shape, device), [each.requires_grad_() for each in (x, y, gain)]

    def function(x, y, gain):
        return fused.rotate(fused.norm_rotate(fused.add_norm(x, y, gain, False, False), table, gain), table)

    made = [run(*leaves) for run in (function, torch.compile(function, backend="aot_eager", fullgraph=True))]
    eager, traced = ([each, *torch.autograd.grad(each, leaves, gradient)] for each in made)
    assert all(torch.equal(one, other) for one, other in zip(eager, traced, strict=True))
