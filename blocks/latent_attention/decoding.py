"""Generation with latent attention: caches only latent vectors and shared keys.

The projections to keys and values are absorbed into the query and the output (arXiv 2405.04434).
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.kernels.past import KVCache, Past, SelectedKVCache, VisibleKV
from blocks.latent_attention.reference import attend
from blocks.primitives.reference import wide


def attend_next(
    q: Tensor,
    rope_key: Tensor,
    latent: Tensor,
    past: Past,
    up_key: Tensor,
    up_value: Tensor,
    *,
    place: str,
    use: int,
) -> Tensor:
    """Causal attention to cached and new tokens; after the prompt one token at a time."""
    values, rope_dim = latent.unsqueeze(2), rope_key.shape[-1]
    held = past.held(place, use, lambda: KVCache(values, past.capacity, key_dim=rope_dim))
    kept = past.keep(held, rope_key, values)
    if kept is None:
        return attend(q, rope_key, latent, up_key, up_value)
    return _attend_one(q, kept, up_key, up_value).to(latent.dtype)


def attend_chosen(
    q: Tensor,
    rope_key: Tensor,
    latent: Tensor,
    past: Past,
    up_key: Tensor,
    up_value: Tensor,
    *,
    place: str,
    use: int,
    chosen_by: str,
) -> Tensor:
    """Causal attention among the tokens that run the same step."""
    values, rope_dim = latent.unsqueeze(2), rope_key.shape[-1]
    held = past.held(place, use, lambda: SelectedKVCache(values, past.capacity, rope_dim))
    kept = held.keep(rope_key, values, past.runs[chosen_by], first=not past.position)
    if kept is None:
        return attend(q, rope_key, latent, up_key, up_value)
    return _attend_one(q, kept, up_key, up_value).to(latent.dtype)


def _attend_one(q: Tensor, kept: VisibleKV, up_key: Tensor, up_value: Tensor) -> Tensor:
    """Attend from one token, q [batch, 1, heads, head_dim], to the cached latent vectors."""
    shared, rows = wide(kept.keys[:, 0]), wide(kept.values[:, 0])
    rope_dim = shared.shape[-1]
    to_key, to_value = (wide(each).view(q.shape[2], -1, each.shape[1]) for each in (up_key, up_value))
    query = wide(q[:, 0])
    compressed = torch.einsum("bhd,hdl->bhl", query[..., rope_dim:], to_key)
    scores = (query[..., :rope_dim] @ shared.mT + compressed @ rows.mT) * q.shape[-1] ** -0.5
    if kept.mask is not None:
        scores = scores.masked_fill(~kept.mask[:, 0], -torch.inf)
    return torch.einsum("bhl,hdl->bhd", scores.softmax(-1) @ rows, to_value).unsqueeze(1)
