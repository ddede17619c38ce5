"""Self-tests of the kernels of residual mixes: one tile, two slots, compared with fp64."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.ir.kernel import Target
from blocks.kernels.self_tests import isolated, mismatch, random_tensors
from blocks.wiring.residual.mix import by_autograd
from blocks.wiring.residual.mix.mix_kernels import (
    attend_kernel,
    latest_kernel,
    rectify_kernel,
    weigh_kernel,
)
from blocks.wiring.residual.mix.operations import AttendValues, MixValues, SumValues
from blocks.wiring.residual.mix.relu_operations import RectifyValues
from blocks.wiring.residual.mix.token_operations import NormLatest

SLOTS, TOKENS = 2, 5
"""Fewer tokens than most tiles have, so that masks are tested."""
MOST = SLOTS + 3
"""One more than there are values, so that there are weights without a value."""


def check_attend(operation: AttendValues | None, target: Target) -> str:
    """Test the kernels of the softmax in an operation's sizes (None: 3 heads of 32) on the target's device.

    Returns a description of the largest error, or "" on success. Random state and autocast are unaffected.
    """
    heads, width = _sizes(operation)
    with isolated(target):
        own, slots, gradient = _given(width, target)
        (query,) = random_tensors([(width,)], target)
        query = query.float() * width**-0.5
        leaves = _exact([*own, slots, query])
        wanted = by_autograd.attend(*leaves[:2], None, [*leaves[2]], leaves[3], reads=SLOTS, heads=heads)
        to_start, to_partial, to_slots, to_query = torch.autograd.grad(wanted, leaves, gradient.double())
        out, log_sum = attend_kernel.attend_forward(own, slots, query, heads)
        shares: dict[int, Tensor] = {}
        made = torch.empty_like(slots, dtype=torch.float32)
        given = (own, slots, query, out, log_sum, gradient, made)
        attend_kernel.attend_backward(*given, False, shares)
        to_own = attend_kernel.attend_backward(*given, True, shares)
        results = (out, *to_own, made, shares.popitem()[1].sum(0))
        # two backward passes add up
        expected = (wanted, to_start, to_partial, 2 * to_slots, 2 * to_query)
        return mismatch((*_NAMES, "gradient of the query"), results, expected, target.dtype)


def check_weigh(operation: SumValues | None, target: Target) -> str:
    """Test the kernels of sums in the same way, with learned weights alone and with those of tokens."""
    heads, width = _sizes(operation)
    with isolated(target):
        own, slots, gradient = _given(width, target)
        static, dynamic = random_tensors([(MOST, heads), (1, TOKENS, MOST, heads)], target)
        faults = (_weighed(own, slots, gradient, static, each) for each in (None, dynamic))
        return next(filter(None, faults), "")


def _weighed(
    own: list[Tensor], slots: Tensor, gradient: Tensor, static: Tensor, dynamic: Tensor | None
) -> str:
    # weights per token add to learned ones, and have the same gradients
    zeros = torch.zeros((1, TOKENS, *static.shape), device=static.device)
    leaves = _exact([*own, slots, zeros if dynamic is None else dynamic])
    start, partial, values, by_token = leaves
    given = (start, partial, by_token, None, [*values], static.double())
    wanted = by_autograd.weigh_by_token(*given, reads=SLOTS, heads=static.shape[1])
    to_start, to_partial, to_slots, to_weights = torch.autograd.grad(wanted, leaves, gradient.double())
    out = weigh_kernel.weigh_forward(own, slots, static, dynamic)
    made = torch.empty_like(slots, dtype=torch.float32)
    weigh_kernel.weigh_backward(own, slots, static, dynamic, gradient, made, False)
    by_weights, *to_own = weigh_kernel.weigh_backward(own, slots, static, dynamic, gradient, made, True)
    expected = (wanted, to_start, to_partial, 2 * to_slots, to_weights)
    names = (*_NAMES, "gradient of the weights")
    dtype = str(slots.dtype).removeprefix("torch.")
    return mismatch(names, (out, *to_own, made, by_weights), expected, dtype)


def check_rectify(operation: RectifyValues | None, target: Target) -> str:
    """Test the kernels of the sum with ReLU weights in the same way."""
    heads, width = _sizes(operation)
    with isolated(target):
        own, slots, gradient = _given(width, target)
        static, query = random_tensors([(MOST, width), (width,)], target)
        static, query = static.float(), query.float() * width**-0.5
        start, partial, values, b, w = leaves = _exact([*own, slots, static, query])
        wanted = by_autograd.rectify(start, partial, None, [*values], b, w, reads=SLOTS, heads=heads)
        exact = torch.autograd.grad(wanted, leaves, gradient.double())
        out = rectify_kernel.rectify_forward(own, slots, static, query, heads)
        made = torch.empty_like(slots, dtype=torch.float32)
        given = (own, slots, static, query, heads, gradient, made)
        rectify_kernel.rectify_backward(*given, False)
        shares, *to_own = rectify_kernel.rectify_backward(*given, True)
        by_static, by_query = shares.sum(0)
        results = (out, *to_own, made, by_static, by_query.sum(0))
        expected = (wanted, *exact[:2], 2 * exact[2], exact[3][: len(by_static)], exact[4])
        names = (*_NAMES, "gradient of b", "gradient of w")
        return mismatch(names, results, expected, target.dtype)


def check_norm(operation: NormLatest | None, target: Target) -> str:
    """Test the kernels of the norm of the latest value in the same way."""
    width = operation.width if operation else 96
    with isolated(target):
        value, gradient = random_tensors([(1, TOKENS, width)] * 2, target)
        (exact,) = leaves = _exact([value])
        wanted = by_autograd.norm_latest(exact, value, [], reads=0)
        (to_value,) = torch.autograd.grad(wanted, leaves, gradient.double())
        normed = latest_kernel.norm_forward(value, value.dtype)
        made = torch.empty_like(value, dtype=torch.float32)
        latest_kernel.norm_backward(value, gradient, made, add=False)
        latest_kernel.norm_backward(value, gradient, made, add=True)
        names = ("norm", "gradient of the value")
        return mismatch(names, (normed, made), (wanted, 2 * to_value), target.dtype)


def _sizes(operation: MixValues | None) -> tuple[int, int]:
    """Return the heads and the width."""
    return (operation.heads, operation.width) if operation else (3, 96)


def _given(width: int, target: Target) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return the start and the partial, slots, and a gradient; the residual stream is in fp32."""
    value = (1, TOKENS, width)
    start, partial, gradient, slots = random_tensors([value, value, value, (SLOTS, *value)], target)
    return [start.float(), partial], slots, gradient.float()


def _exact(tensors: list[Tensor]) -> list[Tensor]:
    return [each.double().requires_grad_() for each in tensors]


_NAMES = ("output", *(f"gradient of the {name}" for name in ("start", "partial", "slots")))
