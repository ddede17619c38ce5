"""Causal attention with a window on a GPU, by torch's flash attention without a mask."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

_attend: Any = varlen_attn
# torch 2.11 groups heads without this argument
_GROUPED = {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


def attend_windowed(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attend to the last `window` tokens, the token itself included."""
    batch, length = q.shape[:2]
    # rotated q and k may not be in the autocast dtype
    q, k, v = (x.to(v.dtype).flatten(0, 1) for x in (q, k, v))
    starts = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=q.device)
    # torch counts only the tokens before the current one
    seen = (window - 1, 0)
    y: Tensor = _attend(q, k, v, starts, starts, length, length, window_size=seen, **_GROUPED)
    return y.view(batch, length, *y.shape[1:])
