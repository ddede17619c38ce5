"""Plain PyTorch for sequence attention. q: [B, S, heads, head_dim]; k, v: [B, S, kv_heads, head_dim]."""

from __future__ import annotations

from math import ceil, floor, log, pi

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import step_table, wide


def window_mask(tokens: Tensor, window: int | None, sinks: int = 0) -> Tensor:
    """Return the mask [S, S], True where 0 <= i - j < window, or j < sinks and j <= i (row i, column j)."""
    position = torch.arange(tokens.shape[1], device=tokens.device)
    distance = position[:, None] - position
    near = distance < (tokens.shape[1] if window is None else window)
    return (distance >= 0) & (near | (position < sinks) if sinks else near)


def attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention with torch's `scaled_dot_product_attention`."""
    return _sdpa(q, k, v, None)


def attend_masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend where the mask [S, S] is True."""
    return _sdpa(q, k, v, mask)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    # rotated q and k may not be in the autocast dtype, but attention needs equal dtypes
    q, k = q.to(v.dtype), k.to(v.dtype)
    first, second, third = (x.transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[2] != k.shape[2]
    y = F.scaled_dot_product_attention(
        first, second, third, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
    )
    return y.transpose(1, 2)


def attend_plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend as in the equation; the softmax is at least in fp32."""
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    grouped = q.view(batch, length, kv_heads, heads // kv_heads, head_dim)
    scores = torch.einsum("bqhgd,bkhd->bhgqk", wide(grouped), wide(k)) * head_dim**-0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    y = torch.einsum("bhgqk,bkhd->bqhgd", weights, wide(v))
    return y.reshape(batch, length, heads, head_dim).to(v.dtype)


def yarn_table(
    tokens: Tensor,
    head_dim: int,
    base: float,
    scale: float,
    context: int,
    beta_fast: float,
    beta_slow: float,
) -> Tensor:
    """Return YaRN's complex factors [sequence, 1, head_dim / 2] for tokens [batch, sequence].

    Pairs with at least `beta_fast` rotations within `context` tokens keep their frequency. The frequency of
    pairs with at most `beta_slow` rotations is divided by `scale`, with a linear ramp over the pairs in
    between. The absolute value of the factors, in queries and keys, is max(1, 0.1 ln(scale) + 1).
    """

    def pair(turns: float) -> float:
        return head_dim * (log(context) - log(turns * 2 * pi)) / (2 * log(base))

    first, last = max(floor(pair(beta_fast)), 0), min(ceil(pair(beta_slow)), head_dim - 1)
    frequency = step_table(tokens, head_dim, base)
    numbers = torch.arange(head_dim // 2, device=tokens.device, dtype=frequency.dtype)
    slow = ((numbers - first) / max(last - first, 0.001)).clamp(0, 1)
    frequency = frequency * (1 - slow + slow / scale)
    position = torch.arange(tokens.shape[1], device=tokens.device, dtype=torch.float32)
    angle = position[:, None, None] * frequency
    return torch.polar(torch.full_like(angle, max(0.1 * log(scale) + 1, 1)), angle)
