"""Gradients of weights that steps share add up in fp32, and autograd sees one gradient in every pass."""

import pytest
import torch

from blocks.kernels.weight_sums import sum_of, summed
from blocks.primitives import fused, reference

STEPS = 5


def drawn(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 4), (4, 4), (3, 4), (2, 7, 4)]
    return [torch.randn(shape, generator=draw).to(dtype).requires_grad_() for shape in shapes]


def run(x, first, second, way):
    """Steps that all use two projections joined, and one alone."""
    function, join, alone = way
    (joined,) = join(first, second)
    (single,) = alone(first)
    results = []
    for _ in range(STEPS):
        x, y = function.project_joined(x, joined, [(4,), (3,)])
        x = torch.tanh(function.project(x, single, (4,)))
        results.append(y)
    return torch.cat(results, -1)


PLAIN = (reference, reference.join, lambda weight: (weight,))
SUMMED = (fused, fused.sum_weight, fused.sum_weight)


def gradients(way, times=1):
    x, first, second, _ = drawn()
    y = run(x, first, second, way)
    for _ in range(times):
        y.square().sum().backward(retain_graph=True)
    return [x.grad, first.grad, second.grad]


@pytest.mark.parametrize("times", [1, 2])
def test_gradients_are_those_of_autograd_also_over_several_passes(times):
    for got, wanted in zip(gradients(SUMMED, times), gradients(PLAIN, times), strict=True):
        torch.testing.assert_close(got, wanted)


def test_nothing_is_rounded_between_steps():
    weight = torch.ones(1, 1, requires_grad=True)
    results = []
    for function, _, alone in (SUMMED, PLAIN):
        with torch.autocast("cpu", torch.bfloat16):
            (cast,) = alone(weight) if function is fused else [weight.to(torch.bfloat16)]
            sum(function.project(torch.ones(1, 1, 1), cast, (1,)).sum() for _ in range(1001)).backward()
        results.append(float(weight.grad))
        weight.grad = None
    assert results[0] == 1001
    assert results[1] != 1001  # 256 + 1 is 256 in bf16


def test_a_pass_over_a_part_leaves_nothing_for_the_next():
    x, first, second, _ = drawn()
    y = run(x, first, second, SUMMED).square().sum()
    (alone,) = torch.autograd.grad(y, [x], retain_graph=True)
    both = torch.autograd.grad(y, [first, second], retain_graph=True)
    wanted = gradients(PLAIN)
    for got, expected in zip([alone, *both], wanted, strict=True):
        torch.testing.assert_close(got, expected)


def test_a_pass_within_a_pass_has_a_sum_of_its_own():
    x, first, second, _ = drawn()
    y = run(x, first, second, SUMMED)
    other = y.square().sum()
    inside = []
    once = y.clone()
    once.register_hook(lambda _: inside.append(torch.autograd.grad(other, [first], retain_graph=True)[0]))
    once.square().sum().backward(retain_graph=True)
    torch.testing.assert_close(inside[0], first.grad)
    torch.testing.assert_close(first.grad, gradients(PLAIN)[1])


def test_parameters_see_one_gradient_and_hooks_run_once():
    x, first, second, _ = drawn()
    seen = []
    first.register_hook(seen.append)
    run(x, first, second, SUMMED).square().sum().backward()
    # joined and alone: two uses of the parameter, of five steps each
    assert len(seen) == 1
    assert torch.equal(seen[0], first.grad)


def test_gradients_of_gradients_are_those_of_autograd():
    results = []
    for way in (SUMMED, PLAIN):
        x, first, second, _ = drawn()
        y = run(x, first, second, way)
        to_first = torch.autograd.grad(y.square().sum(), [first, x], create_graph=True)
        results.append(torch.autograd.grad(sum(each.square().sum() for each in to_first), [first, second, x]))
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted)


def test_without_gradients_there_is_no_sum():
    _, first, *_ = drawn()
    with torch.no_grad():
        assert sum_of(summed([first], torch.float32)) is None
    assert sum_of(summed([first.detach()], torch.float32)) is None
    assert sum_of(summed([first], torch.float32)) is not None


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_traced_products_leave_the_sum_to_autograd():
    x, first, second, _ = drawn()
    (joined,) = fused.sum_weight(first, second)
    traced = torch.compile(fused.project_joined, backend="aot_eager", fullgraph=True)
    sum(each.square().sum() for each in traced(x, joined, [(4,), (3,)])).backward()
    got = first.grad
    first.grad = None
    sum(
        each.square().sum() for each in reference.project_joined(x, torch.cat((first, second)), [(4,), (3,)])
    ).backward()
    torch.testing.assert_close(got, first.grad)
