"""Plain PyTorch for attention within documents.

tokens: [B, S]; q: [B, S, heads, head_dim]; k, v: [B, S, kv_heads, head_dim].
mask: [B, S, S], is added to scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from blocks.kernels.past import KVCache, Past, VisibleKV
from blocks.sequence_attention import reference


def document_mask(tokens: Tensor, start: int, window: int | None) -> Tensor:
    """Return the additive mask [B, S, S]: 0 if the token of the row sees that of the column, else -inf.

    Each `start` is the first token of a document; tokens before the first `start` form a document too.
    """
    document = (tokens == start).cumsum(1)
    same = document[:, :, None] == document[:, None]
    return _added(same & reference.window_mask(tokens, window))


def attend_documents(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend with an additive mask with torch's `scaled_dot_product_attention`."""
    # autocast would copy the mask at each use; torch accepts an fp32 mask with any dtype
    with torch.autocast(q.device.type, enabled=False):
        return reference.attend_masked(
            q, k, v, (mask.double() if v.dtype == torch.float64 else mask)[:, None]
        )


def attend_plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attend as in the equation."""
    return reference.attend_plain(q, k, v, mask[:, None, None] == 0)


class _Documents:
    """The numbers of the documents of the cached tokens, in the order of the cache."""

    def __init__(self, like: Tensor, size: int) -> None:
        self.last = torch.zeros_like(like[:, :1])
        self.kept = KVCache(like[:, :, None, None], size, key_dim=0)

    def take_rows(self, rows: Tensor) -> None:
        """Select rows of the batch by their indices [batch]."""
        self.last = self.last[rows]
        self.kept.take_rows(rows)

    def reset(self) -> None:
        """Forget all tokens, in place."""
        self.last.zero_()

    def add(self, starts: Tensor, past: Past) -> VisibleKV | None:
        """Add new tokens by `starts` [B, S], True at starts of documents.

        Returns None for the prompt, else the documents [B, 1, n, 1] of the tokens that may be seen.
        """
        documents = self.last + starts.cumsum(1)
        # in place, since CUDA graphs read it at a fixed address
        self.last.copy_(past.latest(documents, 1))
        number = documents[:, :, None, None]
        return past.keep(self.kept, number[..., :0], number)


def next_mask(tokens: Tensor, past: Past, start: int, window: int | None, *, place: str, use: int) -> Tensor:
    """Return the mask of the prompt, or of a single later token over the cache: [B, 1, cached]."""
    size = min(window or past.capacity, past.capacity)
    documents = past.held(place, use, lambda: _Documents(tokens, size))
    cached = documents.add(tokens == start, past)
    if cached is None:
        return document_mask(tokens, start, window)
    same = cached.values[:, 0, None, :, 0] == documents.last[:, :, None]
    return _added(same if cached.mask is None else same & cached.mask[:, 0])


def attend_next(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, past: Past, *, window: int, place: str, use: int
) -> Tensor:
    """Attend to the cached tokens of the same document."""
    size = min(window, past.capacity)
    kept = past.keep(past.held(place, use, lambda: KVCache(v, size)), k, v)
    if kept is None:
        return attend_documents(q, k, v, mask)
    return attend_documents(q, kept.keys.transpose(1, 2), kept.values.transpose(1, 2), mask)


def _added(seen: Tensor) -> Tensor:
    """Return 0 where `seen` is True, else -inf, in fp32."""
    return torch.zeros(seen.shape, dtype=torch.float32, device=seen.device).masked_fill_(~seen, -torch.inf)
