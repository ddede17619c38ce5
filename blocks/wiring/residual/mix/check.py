"""Self-tests of the kernels of residual mixes: one tile, two slots, compared with fp64."""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.ir.kernel import Target
from blocks.kernels.self_tests import isolated, mismatch, random_tensors
from blocks.wiring.residual.mix import kernel, reference
from blocks.wiring.residual.mix.operations import AttendValues

SLOTS, TOKENS = 2, 5
"""Fewer tokens than most tiles have, so that masks are tested."""


def check_attend(operation: AttendValues | None, target: Target) -> str:
    """Test the kernels of the softmax in an operation's sizes (None: 2 heads of 48) on the target's device.

    Returns a description of the largest error, or "" on success. Random state and autocast are unaffected.
    """
    heads, width = (operation.heads, operation.width) if operation else (2, 96)
    with isolated(target):
        value = (1, TOKENS, width)
        slots, start, partial, query, gradient = random_tensors(
            [(SLOTS, *value), value, value, (width,), value], target
        )
        # the stream and weights are in fp32
        start, query, gradient = start.float(), query.float() * width**-0.5, gradient.float()
        stacked = torch.cat((start[None], slots, partial[None])).double().requires_grad_()
        exact = query.double().requires_grad_()
        wanted = reference.attend_stacked(stacked, exact, heads)
        to_values, to_query = torch.autograd.grad(wanted, (stacked, exact), gradient.double())
        own = (start, partial)
        out, log_sum = kernel.attend_forward(own, slots, query, heads)
        shares: dict[int, Tensor] = {}
        to_slots = torch.empty_like(slots, dtype=torch.float32)
        given = (own, slots, query, out, log_sum, gradient, to_slots)
        kernel.attend_backward(*given, False, shares)
        to_own = kernel.attend_backward(*given, True, shares)
        made = [out, *to_own, to_slots, shares.popitem()[1].sum(0)]
        # two backward passes add up
        expected = (wanted, to_values[0], to_values[-1], 2 * to_values[1:-1], 2 * to_query)
        return mismatch(_NAMES, made, expected, target.dtype)


_NAMES = ("output", *(f"gradient of the {name}" for name in ("start", "partial", "slots", "query")))
