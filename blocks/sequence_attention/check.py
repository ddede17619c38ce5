"""Self-tests of the kernels for a GPU, on one tile, against the equation in fp64."""

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
"""An odd number, and more than a tile of keys."""
_WINDOW = 45
"""At most: it must end within those tokens."""
_OWN = Attend(8, 2, 64)

_Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def check_ordered(operation: Attend | None, target: Target) -> str:
    """Compare output and gradients in the sizes of an operation (None: 8 heads of 64 on 2) with fp64.

    Returns what is off and by how much, or "". Leaves random state and the caller's autocast alone.
    """
    return _compared(attend_ordered, attend_plain, operation or _OWN, target)


def check_windowed(operation: WindowAttend | None, target: Target) -> str:
    """Do the same through a window."""
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
        # beside each other, as one product makes them
        leaves = [*torch.split(joined[:, :, 2:], [*heads], 2)]
        wanted = _results(plain, [each.double() for each in leaves], gradient.double())
        return mismatch(_NAMES, _results(ours, leaves, gradient), wanted)


_NAMES = ("output", "gradient of queries", "gradient of keys", "gradient of values")


def _results(attend: _Attention, given: list[Tensor], gradient: Tensor) -> list[Tensor]:
    leaves = [each.detach().requires_grad_() for each in given]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient)]
