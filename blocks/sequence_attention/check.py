"""Self-tests of the GPU kernels on one tile, compared with the equation in fp64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from blocks.ir.kernel import Target
from blocks.kernels.self_tests import isolated, mismatch, random_tensors
from blocks.sequence_attention.operations import Attend, WindowAttend
from blocks.sequence_attention.ordered import attend_ordered
from blocks.sequence_attention.reference import attend_plain, window_mask
from blocks.sequence_attention.windowed import attend_windowed

TOKENS = 97
"""Tokens: an odd number, and more than one tile of keys."""
_WINDOW = 45
"""The largest window, smaller than the number of tokens."""
_OWN = Attend(8, 2, 64)

_Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def check_ordered(operation: Attend | None, target: Target) -> str:
    """Test output and gradients in an operation's sizes (None: 8 heads of 64, 2 kv heads).

    Returns a description of the largest error, or "" on success. Random state and autocast are unaffected.
    """
    return _compared(attend_ordered, attend_plain, operation or _OWN, target)


def check_windowed(operation: WindowAttend | None, target: Target) -> str:
    """Do the same with a window."""
    window = min(operation.window, _WINDOW) if operation else _WINDOW
    mask = window_mask(torch.empty(1, TOKENS, device=target.device), window)
    ours, plain = partial(attend_windowed, window=window), partial(attend_plain, mask=mask)
    return _compared(ours, plain, operation or _OWN, target)


def _compared(ours: _Attention, plain: _Attention, sizes: Attend, target: Target) -> str:
    with isolated(target):
        heads, size = (sizes.heads, sizes.kv_heads, sizes.kv_heads), sizes.head_dim
        joined, gradient = random_tensors(
            [(2, TOKENS, each, size) for each in (sum(heads) + 2, sizes.heads)], target
        )
        # slices of one tensor, as a joined product returns them
        leaves = [*torch.split(joined[:, :, 2:], [*heads], 2)]
        wanted = _results(plain, [each.double() for each in leaves], gradient.double())
        return mismatch(_NAMES, _results(ours, leaves, gradient), wanted)


_NAMES = ("output", "gradient of queries", "gradient of keys", "gradient of values")


def _results(attend: _Attention, given: list[Tensor], gradient: Tensor) -> list[Tensor]:
    leaves = [each.detach().requires_grad_() for each in given]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient)]
