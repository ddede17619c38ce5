"""Plain PyTorch for latent attention.

q: [B, S, heads, head_dim]; rope_key: [B, S, 1, rope_dim]; latent: [B, S, latent];
up_key: [heads * (head_dim - rope_dim), latent]; up_value: [heads * head_dim, latent].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import wide


def attend(
    q: Tensor,
    rope_key: Tensor,
    latent: Tensor,
    up_key: Tensor,
    up_value: Tensor,
    linear: Callable[..., Tensor] = F.linear,
) -> Tensor:
    """Causal attention with torch's `scaled_dot_product_attention`: [B, S, heads, head_dim]."""
    k, v = keys_and_values(rope_key, linear(latent, up_key), linear(latent, up_value), q.shape[2])
    first, second, third = (x.to(v.dtype).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(first, second, third, is_causal=True).transpose(1, 2)


def attend_plain(q: Tensor, rope_key: Tensor, latent: Tensor, up_key: Tensor, up_value: Tensor) -> Tensor:
    """Return the same, computed as in the equations; the softmax is at least in fp32."""
    k, v = keys_and_values(rope_key, F.linear(latent, up_key), F.linear(latent, up_value), q.shape[2])
    scores = torch.einsum("bqhd,bkhd->bhqk", wide(q), wide(k)) * q.shape[-1] ** -0.5
    unseen = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool, device=q.device).triu(1)
    weights = scores.masked_fill(unseen, -torch.inf).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, wide(v)).to(v.dtype)


def keys_and_values(rope_key: Tensor, bare: Tensor, values: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Return keys, with the shared rotated part first, and values: [B, S, heads, head_dim] each.

    bare: the other part of keys, values: both of all heads side by side [B, S, heads * size].
    """
    shared = rope_key.to(bare.dtype).expand(-1, -1, heads, -1)
    own = bare.view(*bare.shape[:2], heads, -1)
    return torch.cat((shared, own), -1), values.view(*values.shape[:2], heads, -1)
