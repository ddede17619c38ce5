"""Causal attention on a GPU with a custom order of torch's backends.

cuDNN, the fastest on Hopper, comes first; not all versions of torch do so.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from blocks.sequence_attention.reference import attend_causal

ORDER: tuple[Any, ...] = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)


def attend_ordered(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention with the first enabled backend that supports the inputs.

    Under torch.compile, torch's own order is used.
    """
    if torch.compiler.is_compiling():
        return attend_causal(q, k, v)
    if q.is_cuda:
        _let_torch_order()
    # `sdpa_kernel` takes 50 microseconds, and would enable backends that a caller disabled
    before = _priority()
    ours = [int(each) for each in ORDER]
    _set_priority([*ours, *(each for each in before if each not in ours)])
    try:
        return attend_causal(q, k, v)
    finally:
        _set_priority(before)


@cache
def _let_torch_order() -> None:
    """Make torch initialize its own order, which it does at the first use, before changing the order."""
    x = torch.empty(1, 1, 8, 64, device="cuda", dtype=torch.float16)
    torch._fused_sdp_choice(x, x, x)


_priority: Any = torch._C._get_sdp_priority_order
_set_priority: Any = torch._C._set_sdp_priority_order
