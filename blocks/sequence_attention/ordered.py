"""Causal attention on a GPU with torch's backends tried in an order of our own, and its self-test.

cuDNN comes first, which torch tries last: it is the fastest on Hopper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from blocks.core.checking import apart, drawn, off
from blocks.core.operation import Target
from blocks.sequence_attention.operations import Attend
from blocks.sequence_attention.reference import attend_causal, attend_plain

ORDER: tuple[Any, ...] = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)

TOKENS = 97
"""Of the self-test: an odd number, and more than a tile of keys."""


def attend_ordered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend to all tokens up to each token; of the backends that are enabled, by the first that fits.

    A torch.compile around it takes torch's own order.
    """
    if torch.compiler.is_compiling():
        return attend_causal(q, k, v)
    # `sdpa_kernel` takes 50 microseconds, and would enable what a caller disabled
    before = _priority()
    ours = [int(each) for each in ORDER]
    _set_priority([*ours, *(each for each in before if each not in ours)])
    try:
        return attend_causal(q, k, v)
    finally:
        _set_priority(before)


def check(operation: Attend | None, target: Target) -> str:
    """Compare output and gradients in the sizes of an operation (None: 8 heads of 64 on 2) with fp64.

    Returns what is off and by how much, or "". Leaves random state and the caller's autocast alone.
    """
    heads, kv_heads, size = (
        (operation.heads, operation.kv_heads, operation.head_dim) if operation else (8, 2, 64)
    )
    with apart(target):
        shapes = [(2, TOKENS, n, size) for n in (heads, kv_heads, kv_heads, heads)]
        *leaves, gradient = drawn(shapes, target)
        wanted = _results(attend_plain, [each.double() for each in leaves], gradient.double())
        return off(_NAMES, _results(attend_ordered, leaves, gradient), wanted)


_NAMES = ("output", "gradient of queries", "gradient of keys", "gradient of values")


def _results(attend: Callable[..., Tensor], given: list[Tensor], gradient: Tensor) -> list[Tensor]:
    leaves = [each.detach().requires_grad_() for each in given]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, gradient)]


_priority: Any = torch._C._get_sdp_priority_order
_set_priority: Any = torch._C._set_sdp_priority_order
