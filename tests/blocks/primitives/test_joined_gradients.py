"""Gradients of the parts of one product are written side by side, and equal what autograd would join."""

from functools import partial

import pytest
import torch
from core_kernels import table_for
from torch.utils._python_dispatch import TorchDispatchMode

from blocks.kernels.joined_gradients import gradient_slice
from blocks.kernels.slot_memory import slots
from blocks.kernels.tensors import DTYPES
from blocks.primitives import fused, reference

depth = pytest.importorskip("blocks.depth_attention.fused", exc_type=ImportError)
from blocks.depth_attention import reference as depth_reference  # noqa: E402

SHAPES = ((4, 6), (2, 6), (2, 6))


class Joins(TorchDispatchMode):
    """Counts copies of several tensors into one."""

    def __init__(self):
        super().__init__()
        self.joined = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.joined += func.overloadpacket.__name__ == "cat"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def kernels(where, monkeypatch):
    """Kernels run where they are interpreted, too."""
    if where == "cpu":
        monkeypatch.setattr(fused, "fits", lambda *tensors: all(each.dtype in DTYPES for each in tensors))
    return where


def drawn(where="cpu", dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 7), *((heads * size, 7) for heads, size in SHAPES)]
    drawn = (0.5 * torch.randn(shape, generator=draw) for shape in shapes)
    return [each.to(where, dtype).requires_grad_() for each in drawn]


def parts_of(leaves, functions=fused):
    """The parts of the joined product of the leaves."""
    x, *weights = leaves
    (joined,) = functions.sum_weight(*weights) if functions is fused else reference.join(*weights)
    return functions.project_joined(x, joined, SHAPES)


class Writes(torch.autograd.Function):
    """Twice a part, with its gradient written in its place."""

    @staticmethod
    def forward(ctx, x):
        ctx.place = gradient_slice(x)
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        out = ctx.place.take(gradient.dtype)
        return 2 * gradient if out is None else torch.mul(gradient, 2, out=out)


def twice(x):
    return 2 * x


def close(result, wanted):
    for got, expected in zip(result, wanted, strict=True):
        torch.testing.assert_close(got, expected)


WAYS = {
    "all": lambda q, k, v, write: [write(q).sin(), write(k).cos(), write(v).exp()],
    "some": lambda q, k, v, write: [write(q).sin(), k.cos(), write(v).exp()],
    "none": lambda q, k, v, write: [q.sin(), k.cos(), v.exp()],
    "two readers": lambda q, k, v, write: [write(q).sin(), write(q).cos(), q.exp(), write(k).sin(), v.cos()],
    "one part": lambda q, k, v, write: [write(k).sin()],
    "chained": lambda q, k, v, write: [write(write(q).sin() + q).cos(), write(k).sin(), v.sin()],
}


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_autograd_whoever_writes_them(way):
    write = {"chained": lambda x: Writes.apply(x) if gradient_slice(x) else twice(x)}.get(way, Writes.apply)
    results = []
    for functions, made in ((fused, write), (reference, twice)):
        leaves = drawn()
        loss = sum(each.sum() for each in WAYS[way](*parts_of(leaves, functions), made))
        for _ in range(2):
            loss.backward(retain_graph=True)
        results.append([leaf.grad for leaf in leaves])
    close(*results)


def test_a_pass_over_a_part_leaves_nothing_for_the_next():
    results = []
    for functions, write in ((fused, Writes.apply), (reference, twice)):
        leaves = drawn()
        q, k, v = parts_of(leaves, functions)
        loss = write(q).sin().sum() + write(k).square().sum() + v.sum()
        alone = torch.autograd.grad(loss, [q, k], retain_graph=True)
        results.append([*alone, *torch.autograd.grad(loss, leaves)])
    close(*results)


def test_a_pass_within_a_pass_writes_elsewhere():
    inside = []
    leaves = drawn()
    q, k, v = parts_of(leaves)
    loss = Writes.apply(q).sin().sum() + Writes.apply(k).square().sum() + v.sum()
    once = loss.clone()
    once.register_hook(lambda _: inside.append(torch.autograd.grad(loss, leaves, retain_graph=True)))
    once.backward(retain_graph=True)
    close(inside[0], [leaf.grad for leaf in leaves])


def test_gradients_of_gradients_are_those_of_autograd():
    results = []
    for functions in (fused, reference):
        leaves = drawn()
        q, k, v = parts_of(leaves, functions)
        loss = q.sin().sum() + k.square().sum() + v.exp().sum()
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(each.square().sum() for each in first), leaves))
    close(*results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("normed", [False, True])
def test_heads_are_turned_back_side_by_side(kernels, dtype, normed):
    results = []
    for functions in (fused, reference):
        exact = functions is reference
        leaves = drawn(kernels, dtype)
        gain = torch.linspace(0.5, 1.5, 6, device=kernels, dtype=dtype).requires_grad_()
        q, k, v = parts_of(leaves, functions)
        table = table_for((2, 5, 4, 6), kernels)
        turn = partial(functions.norm_rotate, gain=gain) if normed else functions.rotate
        made = [turn(q, table), turn(k, table), v]
        loss = sum((each.float().sin() * number).sum() for number, each in enumerate(made, 1))
        with Joins() as joins:
            grads = torch.autograd.grad(loss, [*leaves, *([gain] if normed else [])])
        results.append([*made, *grads])
        assert joins.joined == exact
    tolerance = {"atol": 2e-2, "rtol": 2e-2} if dtype == torch.float16 else {"atol": 1e-4, "rtol": 1e-4}
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, **tolerance)


@pytest.mark.parametrize("way", ["pull", "push"])
@pytest.mark.parametrize("turned", [False, True])
def test_gradients_of_queries_and_slots_are_written_side_by_side(kernels, monkeypatch, way, turned):
    monkeypatch.setattr(depth, "backward_method", lambda *sizes: way)
    angle = torch.tensor([0.3, 0.2, 0.1], device=kernels)
    results = []
    for functions, attention in ((fused, depth), (reference, depth_reference)):
        leaves = drawn(kernels)
        x, *weights = leaves
        (joined,) = functions.sum_weight(*weights) if functions is fused else reference.join(*weights)
        memory, token = slots(torch.zeros(2, 5, device=kernels), 3, 2, 6)
        loss = torch.zeros((), device=kernels)
        for step in range(3):
            q, k, v = functions.project_joined(x, joined, SHAPES)
            if turned:
                token = attention.append_rotated(k, v, token, memory, angle, slot=step, index=step)
                y = attention.attend_rotated(q, token, memory, angle, reads=step + 1, index=step)
            else:
                token = attention.append(k, v, token, memory, slot=step)
                y = attention.attend(q, token, memory, reads=step + 1)
            x = x + y.flatten(2)[..., :7]
            loss = loss + y.sin().sum()
        with Joins() as joins:
            results.append([loss, *torch.autograd.grad(loss, leaves)])
        if functions is fused:
            assert joins.joined == 0
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_columns_between_parts_stay_zero(monkeypatch):
    monkeypatch.setattr(reference, "alignment", lambda weight: 16)
    results = []
    for functions in (fused, reference):
        leaves = drawn()
        q, k, v = parts_of(leaves, functions)
        assert gradient_slice(q) is None
        loss = q.sin().sum() + k.square().sum() + v.exp().sum()
        results.append(torch.autograd.grad(loss, leaves))
    close(*results)
