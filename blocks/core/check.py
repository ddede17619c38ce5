"""The self-tests of the kernels of `blocks.core`: one tile against fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from blocks.core import norm_kernel, reference, rotary_kernel
from blocks.core.fused_operations import AddNorm
from blocks.core.operation import Operation, Target

TOKENS = 5
"""Fewer than a tile takes, so that its masks are at work."""

_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Of the norm of what is expected; a kernel that is wrong is off by far more."""


def check_add_norm(operation: AddNorm | None, target: Target) -> str:
    """Run the kernels of a sum and its norm at an operation's width (None: 96) on a target's device.

    Returns what is off and by how much, or "". Leaves random state and the caller's autocast alone.
    """
    width = operation.shape[-1] if operation else 96
    with _apart(target):
        a, b, of_norm, of_total, gain = _drawn([(1, TOKENS, width)] * 4 + [(width,)], target)
        leaves = [each.double().requires_grad_() for each in (a, b, gain)]
        total = leaves[0] + leaves[1]
        normed = reference.rms_norm_plain(total, leaves[2])
        wanted = torch.autograd.grad([normed, total], leaves, [of_norm.double(), of_total.double()])
        forward = norm_kernel.add_norm_forward(a, b, gain, a.dtype)
        backward = norm_kernel.add_norm_backward(of_norm, of_total, forward[1], gain, (a.dtype, b.dtype))
        names = (
            "norm",
            "sum",
            "gradient of the first term",
            "gradient of the second",
            "gradient of the gain",
        )
        return _off(names, [*forward, *backward], [normed, total, *wanted])


def check_rotary(operation: Operation | None, target: Target) -> str:
    """Run the kernels that turn heads, alone and after a norm, in an operation's sizes (None: 4 of 64)."""
    heads, head_dim = getattr(operation, "shape", (4, 64))
    with _apart(target):
        shape = (1, TOKENS, heads, head_dim)
        x, gradient, gain = _drawn([shape, shape, (head_dim,)], target)
        tokens = torch.zeros((1, TOKENS), dtype=torch.int64, device=x.device)
        table = reference.sequence_table(tokens, head_dim, 100.0)
        for name, weight in (("turned", None), ("normed and turned", gain)):
            leaves = [each.double().requires_grad_() for each in (x, gain)[: 1 if weight is None else 2]]
            normed = leaves[0] if weight is None else reference.rms_norm_plain(*leaves)
            out = reference.rotate(normed, table.to(torch.complex128))
            wanted = torch.autograd.grad(out, leaves, gradient.double())
            found = (
                rotary_kernel.rotate_forward(x, table, weight),
                *rotary_kernel.rotate_backward(gradient, table, x, weight),
            )
            names = ("output", "gradient of the input", "gradient of the gain")
            if told := _off(
                names[: 1 + len(leaves)], [each for each in found if each is not None], [out, *wanted]
            ):
                return f"{name}: {told}"
    return ""


def _apart(target: Target) -> ExitStack:
    """Leave what the caller does to tensors: whoever runs a model may cast, or watch what is kept."""
    stack = ExitStack()
    for each in (
        torch.inference_mode(False),
        torch.enable_grad(),
        saved_tensors_hooks(_itself, _itself),
        torch.autocast(target.device, enabled=False),
    ):
        stack.enter_context(each)
    return stack


_itself: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731


def _drawn(shapes: Sequence[tuple[int, ...]], target: Target) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    dtype = getattr(torch, target.dtype)
    return [torch.randn(shape, generator=draw).to(target.device, dtype) for shape in shapes]


def _off(names: Sequence[str], found: Sequence[Tensor], wanted: Sequence[Tensor]) -> str:
    for name, got, expected in zip(names, found, wanted, strict=True):
        off = float((got.double() - expected).detach().norm() / expected.detach().norm())
        if not off <= _TOLERANCES[got.dtype]:  # nor is NaN
            return f"{name} is off by {off:.2g} of its norm in {str(got.dtype).removeprefix('torch.')}"
    return ""
