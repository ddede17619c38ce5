"""Self-tests of the kernels in `blocks.primitives`: one tile, compared with fp64."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.ir.kernel import Target
from blocks.ir.operation import Operation
from blocks.kernels.self_tests import isolated, mismatch, random_tensors
from blocks.primitives import norm_kernel, reference, rotary_kernel
from blocks.primitives.fused_operations import AddNorm

TOKENS = 5
"""Fewer than a tile has, so that masks are tested."""


def check_add_norm(operation: AddNorm | None, target: Target) -> str:
    """Test the kernels of the sum with norm at an operation's width (None: 96) on the target's device.

    Returns a description of the largest error, or "" on success. Random state and autocast are unaffected.
    """
    width = operation.shape[-1] if operation else 96
    with isolated(target):
        a, b, of_norm, of_total, gain = random_tensors([(1, TOKENS, width)] * 4 + [(width,)], target)
        # also as under autocast: the stream in fp32, the update and the norm in the compute dtype
        wide = (a.float(), b, of_norm, of_total.float(), gain.float())
        return _add_norm(a, b, of_norm, of_total, gain) or _add_norm(*wide)


def _add_norm(a: Tensor, b: Tensor, of_norm: Tensor, of_total: Tensor, gain: Tensor) -> str:
    leaves = [each.double().requires_grad_() for each in (a, b, gain)]
    total = leaves[0] + leaves[1]
    normed = reference.rms_norm_plain(total, leaves[2])
    wanted = torch.autograd.grad([normed, total], leaves, [of_norm.double(), of_total.double()])
    forward = norm_kernel.add_norm_forward(a, b, gain, of_norm.dtype)
    backward = norm_kernel.add_norm_backward(of_norm, of_total, forward[1], gain, (a.dtype, b.dtype))
    return mismatch(_ADD_NORM, [*forward, *backward], [normed, total, *wanted])


_ADD_NORM = (
    "norm",
    "sum",
    *(f"gradient of the {name}" for name in ("first term", "second", "gain")),
)


def check_rotary(operation: Operation | None, target: Target) -> str:
    """Test the rotary kernels, with and without a norm, in an operation's sizes (None: 4 heads of 64)."""
    heads, head_dim = getattr(operation, "shape", (4, 64))
    with isolated(target):
        shape = (1, TOKENS, heads, head_dim)
        x, gradient, gain = random_tensors([shape, shape, (head_dim,)], target)
        tokens = torch.zeros((1, TOKENS), dtype=torch.int64, device=x.device)
        table = reference.sequence_table(tokens, head_dim, 100.0)
        for name, weight in (("turned", None), ("normed and turned", gain)):
            leaves = [each.double().requires_grad_() for each in (x, gain)[: 1 if weight is None else 2]]
            normed = leaves[0] if weight is None else reference.rms_norm_plain(*leaves)
            out = reference.rotate(normed, table.to(torch.complex128))
            wanted = torch.autograd.grad(out, leaves, gradient.double())
            results = (
                rotary_kernel.rotate_forward(x, table, weight),
                *rotary_kernel.rotate_backward(gradient, table, x, weight),
            )
            names = ("output", "gradient of the input", "gradient of the gain")
            if fault := mismatch(
                names[: 1 + len(leaves)], [each for each in results if each is not None], [out, *wanted]
            ):
                return f"{name}: {fault}"
    return ""
