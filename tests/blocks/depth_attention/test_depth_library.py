"""The operators of depth attention: torch's own checks, gradients, FLOPs."""

import pytest
import torch
from depth_kernels import SIZES, check, drawn, exact
from torch.utils.flop_counter import FlopCounterMode

from blocks.depth_attention.reference import attend_stacked
from blocks.primitives.reference import rotate

library = pytest.importorskip("blocks.depth_attention.library", exc_type=ImportError)

SMALL = (1, 3, 2, 1, 8, 3)


@pytest.fixture
def inputs(where):
    torch.use_deterministic_algorithms(False)  # opcheck compares what was never written
    return drawn(SMALL, device=where)


@pytest.mark.parametrize("reads", [0, 2])
def test_attend_and_its_backward_pass_the_checks_of_torch(inputs, reads):
    query, keys, values, gradient = inputs
    leaves = [each.clone().requires_grad_() for each in (query, keys, values)]
    torch.library.opcheck(library.depth_attend, (*leaves, reads))
    out, log_sum = library.depth_attend(query, keys, values, reads)
    torch.library.opcheck(library.depth_attend_backward, (gradient, query, keys, values, out, log_sum, reads))


def test_turned_queries_pass_the_checks_of_torch_and_have_the_gradients_of_fp64(inputs):
    query, keys, values, gradient = inputs
    angle = torch.linspace(0.1, 1, 4, device=query.device)
    turn = torch.stack((angle.cos(), angle.sin()), -1).flatten()
    leaves = [each.clone().requires_grad_() for each in (query, keys, values)]
    torch.library.opcheck(library.depth_attend, (*leaves, 3, turn))
    out, log_sum = library.depth_attend(*leaves, 3, turn)
    got = torch.autograd.grad(out, leaves, gradient)
    given = (gradient, query, keys, values, out.detach(), log_sum, 3, turn)
    torch.library.opcheck(library.depth_attend_backward, given)
    exact_leaves = [each.double().requires_grad_() for each in (query, keys, values)]
    rotated = rotate(exact_leaves[0], torch.view_as_complex(turn.double().view(-1, 2)))
    wanted = attend_stacked(rotated, *exact_leaves[1:])
    check(
        [out.detach(), *got],
        [wanted.detach(), *torch.autograd.grad(wanted, exact_leaves, gradient.double())],
        torch.float32,
    )


def test_pull_passes_the_checks_of_torch(inputs):
    query, keys, values, gradient = inputs
    numbers = torch.zeros(query.shape[:3], device=query.device)
    reads = ([query, gradient], [gradient, query], [numbers] * 2, [numbers] * 2)
    torch.library.opcheck(library.depth_pull, (keys[0], values[0], *reads))


@pytest.mark.parametrize("reads", [1, 3])
def test_gradients_equal_fp64(where, reads):
    query, keys, values, gradient = drawn(SIZES["a group of 3, padded twice"], device=where)
    leaves = [each.clone().requires_grad_() for each in (query, keys, values)]
    out, _ = library.depth_attend(*leaves, reads)
    wanted = exact(query, keys[:reads], values[:reads], gradient)
    got = torch.autograd.grad(out, leaves, gradient)
    assert not got[1][reads:].any()
    assert not got[2][reads:].any()
    check([out.detach(), got[0], got[1][:reads], got[2][:reads]], wanted, torch.float32)


def test_pull_adds_up_all_reads(where):
    query, keys, values, gradient = drawn(SMALL, device=where)
    reads, expected = [], [torch.zeros(keys.shape[1:], dtype=torch.float64, device=where) for _ in range(2)]
    for seen in (2, 3):
        out, log_sum = library.depth_attend(query, keys, values, seen)
        reads.append((query, gradient, log_sum, (gradient * out).sum(-1)))
        for total, each in zip(expected, exact(query, keys[:seen], values[:seen], gradient)[2:], strict=True):
            total += each[1]
    got = library.depth_pull(keys[1], values[1], *map(list, zip(*reads, strict=True)))
    check(got, expected, torch.float32)


def test_nothing_to_read_gives_exactly_0(where):
    query, keys, values, gradient = drawn(SMALL, device=where)
    leaves = [each.clone().requires_grad_() for each in (query, keys, values)]
    out, log_sum = library.depth_attend(*leaves, 0)
    assert not out.any()
    assert (log_sum == -torch.inf).all()
    assert not any(each.any() for each in torch.autograd.grad(out, leaves, gradient))


def test_the_log_sum_exp_has_no_gradient(where):
    query, keys, values, _ = drawn(SMALL, device=where)
    out, log_sum = library.depth_attend(query.requires_grad_(), keys, values, 2)
    assert out.requires_grad
    assert not log_sum.requires_grad


def test_flops_are_two_products_forward_and_four_backward(where):
    query, keys, values, gradient = drawn(SMALL, device=where)
    leaves = [each.clone().requires_grad_() for each in (query, keys, values)]
    with FlopCounterMode(display=False) as counter:
        out, log_sum = library.depth_attend(*leaves, 2)
    assert counter.get_total_flops() == 2 * 2 * query.numel() * 2
    with FlopCounterMode(display=False) as counter:
        out.backward(gradient)
    assert counter.get_total_flops() == 2 * 4 * query.numel() * 2
    with FlopCounterMode(display=False) as counter:
        library.depth_pull(keys[0], values[0], *([each] for each in (query, gradient, log_sum, log_sum)))
    assert counter.get_total_flops() == 2 * 2 * query.numel()
