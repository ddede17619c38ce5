"""Plain PyTorch for the model's own operations. tokens: [batch, sequence]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from blocks.kernels.past import Past


def embed(tokens: Tensor, weight: Tensor, scale: float | None = None) -> Tensor:
    """Return the tokens' rows of weight [vocab, width], times `scale`, by default sqrt(width)."""
    rows = F.embedding(tokens, weight)
    return rows if scale == 1 else rows * (math.sqrt(weight.shape[1]) if scale is None else scale)


def add_positions(x: Tensor, weight: Tensor) -> Tensor:
    """Return x [batch, sequence, width] plus the first rows of weight [context, width]."""
    return x + weight[: x.shape[1]]


def add_next_positions(x: Tensor, past: Past, weight: Tensor, *, place: str, use: int) -> Tensor:
    """Return new tokens x [batch, sequence, width] plus the rows of their positions."""
    position = past.positions
    return x + (weight[position:][: x.shape[1]] if isinstance(position, int) else weight[position][:, None])


def add_document_positions(x: Tensor, tokens: Tensor, weight: Tensor, start: int) -> Tensor:
    """Return x [batch, sequence, width] plus the rows of positions within documents, begun by `start`."""
    return x + F.embedding(_since(tokens == start, torch.arange(tokens.shape[1], device=x.device)), weight)


def add_next_document_positions(
    x: Tensor, tokens: Tensor, past: Past, weight: Tensor, start: int, *, place: str, use: int
) -> Tensor:
    """Return new tokens x [batch, sequence, width] plus the rows of their positions."""
    began = past.held(place, use, lambda: _Began(tokens.new_zeros(len(tokens), 1)))
    first = past.positions
    if not isinstance(first, int):
        first = first[:, None]
    position = (first + torch.arange(tokens.shape[1], device=x.device)).expand(tokens.shape)
    within = _since(tokens == start, position, began.at)
    # in place, since CUDA graphs read it at a fixed address
    began.at.copy_(past.latest(position - within, 1))
    return x + F.embedding(within, weight)


class _Began:
    """Where the latest document of each row began, [batch, 1]."""

    def __init__(self, at: Tensor) -> None:
        self.at = at

    def take_rows(self, rows: Tensor) -> None:
        """Go on with rows of the batch, by their numbers [batch]."""
        self.at = self.at[rows]

    def reset(self) -> None:
        """Go on before the first token."""
        self.at.zero_()


def _since(starts: Tensor, position: Tensor, before: Tensor | None = None) -> Tensor:
    """Return how many positions ago [batch, sequence] the last start was, or what began `before` them."""
    began = (starts * position).cummax(1).values
    return position - (began if before is None else began.maximum(before))
