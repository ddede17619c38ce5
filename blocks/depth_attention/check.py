"""The self-test of the kernels of depth attention: one tile, both ways backward, against fp64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from blocks.core.operation import Target
from blocks.depth_attention import kernel, reference
from blocks.depth_attention.operations import Append, Attend

SLOTS, TOKENS = 3, 5
"""Fewer tokens than a tile takes, so that its masks are at work."""

_TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 4e-2}
"""Of the norm of what is expected; a kernel that is wrong is off by far more."""


def check(operation: Append | Attend | None, target: Target) -> str:
    """Run the kernels in the sizes of an operation (None: 8 heads of 64 on 2 kv heads) on a target's device.

    Returns what is off and by how much, or "". Leaves random state and the caller's autocast alone.
    """
    # whoever runs a model may cast, or watch what is kept for its backward pass
    apart = saved_tensors_hooks(_itself, _itself), torch.autocast(target.device, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), apart[0], apart[1]:
        query, keys, values, gradient = _drawn(_sizes(operation), target)
        expected = _exact(query, keys, values, gradient)
        for way, found in (
            ("push", _pushed(query, keys, values, gradient)),
            ("pull", _pulled(query, keys, values, gradient)),
        ):
            for name, got, wanted in zip(_NAMES, found, expected, strict=True):
                off = float((got.double() - wanted).norm() / wanted.norm())
                if not off <= _TOLERANCES[query.dtype]:  # nor is NaN
                    return f"{name} ({way}) is off by {off:.2g} of its norm in {target.dtype}"
    return ""


def _itself(tensor: Tensor) -> Tensor:
    return tensor


_NAMES = ("output", "gradient of the query", "gradient of keys", "gradient of values")


def _sizes(operation: Append | Attend | None) -> tuple[int, int, int]:
    """Return heads, kv heads, and their size."""
    if operation is None:
        return 8, 2, 64
    heads = operation.heads if isinstance(operation, Attend) else operation.kv_heads
    return heads, operation.kv_heads, operation.head_dim


def _drawn(sizes: tuple[int, int, int], target: Target) -> list[Tensor]:
    heads, kv_heads, head_dim = sizes
    draw = torch.Generator().manual_seed(0)
    query, slots = (1, TOKENS, heads, head_dim), (SLOTS, 1, TOKENS, kv_heads, head_dim)
    drawn = (torch.randn(shape, generator=draw) for shape in (query, slots, slots, query))
    return [each.to(target.device, getattr(torch, target.dtype)) for each in drawn]


def _exact(query: Tensor, keys: Tensor, values: Tensor, gradient: Tensor) -> list[Tensor]:
    leaves = [each.double().requires_grad_() for each in (query, keys, values)]
    out = reference.attend_stacked(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient.double())]


def _pushed(query: Tensor, keys: Tensor, values: Tensor, gradient: Tensor) -> list[Tensor]:
    out, log_sum = kernel.attend_forward(query, keys, values, SLOTS)
    sums = [torch.zeros(keys.shape, device=keys.device) for _ in range(2)]
    push = kernel.Push(sums[0], sums[1], 0)
    made, _ = kernel.attend_backward(query, keys, values, out, log_sum, gradient, SLOTS, push=push)
    return [out, made, *sums]


def _pulled(query: Tensor, keys: Tensor, values: Tensor, gradient: Tensor) -> list[Tensor]:
    query, gradient = kernel.readable(query), kernel.readable(gradient)
    out, log_sum = kernel.attend_forward(query, keys, values, SLOTS)
    table = torch.empty((1, kernel.COLUMNS), dtype=torch.int64, device=keys.device)
    row = kernel.Row(table, 0)
    # delta stays alive, for the table holds its address
    made, delta = kernel.attend_backward(query, keys, values, out, log_sum, gradient, SLOTS, row=row)
    heads, dtype = query.shape[2], keys.dtype
    slots = [kernel.pull(keys[n], values[n], table, 1, n, heads, dtype) for n in range(SLOTS)]
    del delta
    return [out, made, *(torch.stack(each) for each in zip(*slots, strict=True))]
