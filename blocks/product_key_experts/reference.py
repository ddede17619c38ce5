"""Plain PyTorch for product-key experts (PEER, arXiv 2407.04153).

query: [B, S, heads, key_dim]; first, second: [keys, key_dim / 2]; expert i * keys + j has key i of the
first and key j of the second set; x: [B, S, width]; up, down: [experts, width].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.primitives.reference import wide


def choose_plain(query: Tensor, first: Tensor, second: Tensor, active: int) -> tuple[Tensor, Tensor]:
    """Return softmax weights and indices of the best experts: [B, S, heads, active]; scores in fp32."""
    with torch.autocast(query.device.type, enabled=False):
        left, right = wide(query).chunk(2, -1)
        pairs = (left @ wide(first).T).unsqueeze(-1) + (right @ wide(second).T).unsqueeze(-2)
        scores, indices = pairs.flatten(-2).topk(active)
        return scores.softmax(-1), indices


def read_plain(x: Tensor, indices: Tensor, up: Tensor) -> Tensor:
    """Return up[expert] . x for each token's experts [B, S, heads, active], at least in fp32."""
    return (wide(up[indices]) * wide(x)[:, :, None, None]).sum(-1)


def write_plain(sums: Tensor, weights: Tensor, indices: Tensor, down: Tensor) -> Tensor:
    """Return the sum over experts of weight * gelu(sum) * down[expert], in the dtype of down."""
    hidden = F.gelu(sums) * weights
    return (hidden.unsqueeze(-1) * wide(down[indices])).sum((2, 3)).to(down.dtype)
