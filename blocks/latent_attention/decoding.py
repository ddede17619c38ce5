"""Latent attention for tokens that come after others: only latent vectors and shared keys are kept.

The maps to keys and values are applied to the query and the sum, not to every token (arXiv 2405.04434).
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.kernels.past import KeysAndValues, Past
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
    """Attend to all tokens up to each token; after the first tokens one at a time."""
    values, rope_dim = latent.unsqueeze(2), rope_key.shape[-1]
    kept = past.held(place, use, lambda: KeysAndValues(values, past.capacity, key_dim=rope_dim))
    shared, rows = (wide(each[:, 0]) for each in kept.add(rope_key, values))
    if not past.position:
        return attend(q, rope_key, latent, up_key, up_value)
    to_key, to_value = (wide(each).view(q.shape[2], -1, each.shape[1]) for each in (up_key, up_value))
    query = wide(q[:, 0])
    compressed = torch.einsum("bhd,hdl->bhl", query[..., rope_dim:], to_key)
    scores = (query[..., :rope_dim] @ shared.mT + compressed @ rows.mT) * q.shape[-1] ** -0.5
    mixed = scores.softmax(-1) @ rows
    return torch.einsum("bhl,hdl->bhd", mixed, to_value).unsqueeze(1).to(latent.dtype)
