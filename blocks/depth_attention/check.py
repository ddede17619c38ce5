"""Self-test of the depth attention kernels: one tile, both backward methods, compared with fp64."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.depth_attention import append_kernel, kernel, pull_kernel, reference
from blocks.depth_attention.kernel import Bias
from blocks.depth_attention.operations import Attend, RotaryAttend, RotaryWriteKV, WriteKV
from blocks.ir.kernel import Target
from blocks.kernels.self_tests import isolated, mismatch, random_tensors
from blocks.primitives.fused import summed_shares
from blocks.primitives.reference import rotate
from blocks.primitives.rotary_kernel import rotate_back

SLOTS, TOKENS = 3, 5
"""Fewer tokens than a tile has, so that masks are tested."""


def check(operation: WriteKV | Attend | None, target: Target) -> str:
    """Test the kernels in an operation's sizes (None: 8 heads of 64, 2 kv heads) on the target's device.

    Heads are rotated if the operation rotates them; without an operation both cases are tested.

    Returns a description of the largest error, or "" on success. Random state and autocast are unaffected.
    """
    return _check(operation, target, biased=False)


def check_biased(operation: Attend | None, target: Target) -> str:
    """Test the same kernels with a bias by distance."""
    return _check(operation, target, biased=True)


def _check(operation: WriteKV | Attend | None, target: Target, biased: bool) -> str:
    with isolated(target):
        given = _given(_sizes(operation), target)
        heads = given[0].shape[2]
        bias = torch.arange(1, heads + 1, device=given[0].device) / heads if biased else None
        return next(filter(None, (_wrong(given, turn, bias) for turn in _turns(operation, given[0]))), "")


def _wrong(given: list[Tensor], turn: Tensor | None, bias: Tensor | None) -> str:
    query, raw, values, gradient = given
    keys = torch.empty_like(raw), torch.empty_like(values)
    for slot in range(SLOTS):
        append_kernel.append(raw[slot], values[slot], keys[0][slot], keys[1][slot], turn)
    expected = _exact(query, raw, values, gradient, turn, bias)
    for way, run in (("push", _pushed), ("pull", _pulled)):
        how = way if turn is None else f"{way}, turned"
        names = [f"{name} ({how})" for name in _NAMES[: len(expected)]]
        dtype = str(query.dtype).removeprefix("torch.")
        shares: dict[int, Tensor] = {}
        results = run(query, *keys, gradient, turn, None if bias is None else Bias(bias, 1, shares))
        results += [] if bias is None else [summed_shares(shares)]
        if fault := mismatch(names, results, expected, dtype):
            return fault
    return ""


def _turns(operation: WriteKV | Attend | None, query: Tensor) -> list[Tensor | None]:
    """Return the rotations to test; None for no rotation."""
    if not isinstance(operation, RotaryWriteKV | RotaryAttend | None):
        return [None]
    if query.shape[-1] % 2:
        return [None]
    angle = torch.arange(1, query.shape[-1] // 2 + 1, device=query.device, dtype=torch.float32)
    turn = torch.stack((angle.cos(), angle.sin()), -1).flatten()
    return [turn] if operation else [None, turn]


_NAMES = ("output", *(f"gradient of {name}" for name in ("the query", "keys", "values", "the bias")))


def _sizes(operation: WriteKV | Attend | None) -> tuple[int, int, int]:
    """Return (heads, kv_heads, head_dim)."""
    if operation is None:
        return 8, 2, 64
    heads = operation.heads if isinstance(operation, Attend) else operation.kv_heads
    return heads, operation.kv_heads, operation.head_dim


def _given(sizes: tuple[int, int, int], target: Target) -> list[Tensor]:
    heads, kv_heads, head_dim = sizes
    query, slots = (1, TOKENS, heads, head_dim), (SLOTS, 1, TOKENS, kv_heads, head_dim)
    return random_tensors([query, slots, slots, query], target)


def _exact(
    query: Tensor, keys: Tensor, values: Tensor, gradient: Tensor, turn: Tensor | None, bias: Tensor | None
) -> list[Tensor]:
    biases = [] if bias is None else [bias]
    leaves = [each.double().requires_grad_() for each in (query, keys, values, *biases)]
    given = leaves
    if turn is not None:
        table = torch.view_as_complex(turn.double().view(-1, 2))
        given = [*(rotate(each, table) for each in leaves[:2]), *leaves[2:]]
    out = reference.attend_stacked(*given)
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient.double())]


def _pushed(
    query: Tensor, keys: Tensor, values: Tensor, gradient: Tensor, turn: Tensor | None, bias: Bias | None
) -> list[Tensor]:
    out, log_sum = kernel.attend_forward(query, keys, values, SLOTS, turn, bias)
    sums = [torch.zeros(keys.shape, device=keys.device) for _ in range(2)]
    push = kernel.Push(sums[0], sums[1], 0)
    made, _ = kernel.attend_backward(
        query, keys, values, out, log_sum, gradient, SLOTS, push=push, turn=turn, bias=bias
    )
    if turn is not None:
        sums[0] = torch.stack([rotate_back(each, turn) for each in sums[0]])
    return [out, made, *sums]


def _pulled(
    query: Tensor, keys: Tensor, values: Tensor, gradient: Tensor, turn: Tensor | None, bias: Bias | None
) -> list[Tensor]:
    query, gradient = kernel.placed(query), kernel.readable(gradient)
    out, log_sum = kernel.attend_forward(query, keys, values, SLOTS, turn, bias)
    table = torch.empty((1, kernel.COLUMNS), dtype=torch.int64, device=keys.device)
    row = kernel.Row(table, 0)
    # keep delta alive: the table holds its address
    made, delta = kernel.attend_backward(
        query, keys, values, out, log_sum, gradient, SLOTS, row=row, turn=turn, bias=bias
    )
    heads, dtype = query.shape[2], keys.dtype
    queries = pull_kernel.Queries(turn is not None, bias=bias and bias.slopes)
    slots = [
        pull_kernel.pull(keys[n], values[n], table, 1, n, heads, dtype, turn, queries) for n in range(SLOTS)
    ]
    del delta
    return [out, made, *(torch.stack(each) for each in zip(*slots, strict=True))]
