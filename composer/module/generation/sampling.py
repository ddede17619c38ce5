"""Sampling the next token: greedily, or by a random number of the row and position."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from blocks.primitives.random import derive_key, digest, uniform


class Sampler:
    """Samples tokens as a function of a seed, the row of the batch and the position."""

    def __init__(
        self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, seed: int = 0
    ) -> None:
        """A temperature of 0 selects the likeliest token.

        Raises:
            ValueError: a number is out of range.
        """
        _check(0 <= temperature < inf, "temperature", "a number from 0", temperature)
        _check(top_k is None or top_k >= 1, "top_k", "a number of tokens from 1", top_k)
        _check(top_p is None or 0 < top_p <= 1, "top_p", "a number above 0 and at most 1", top_p)
        self.temperature, self.top_k, self.top_p, self.seed = temperature, top_k, top_p, seed
        self._rows: Tensor | None = None

    def __call__(self, logits: Tensor, position: int) -> Tensor:
        """Return a token [batch] for each row of logits [batch, vocab]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        shares, tokens = self._shares(logits)
        sums = shares.cumsum(-1)
        total = sums[:, -1:]
        drawn = self._uniform(position, logits).unsqueeze(-1).clamp(min=0) * total
        # rounding must not reach tokens that are left out
        index = torch.minimum((sums <= drawn).sum(-1, keepdim=True), (sums < total).sum(-1, keepdim=True))
        return (index if tokens is None else tokens.gather(-1, index)).squeeze(-1)

    def _shares(self, logits: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return probabilities [batch, n] up to a factor, fp64, and their tokens, None for all in order."""
        scores = logits.double()
        # the largest is 0, so that no temperature makes it infinite
        shares = ((scores - scores.amax(-1, keepdim=True)) / self.temperature).softmax(-1)
        if self.top_k is None and self.top_p is None:
            return shares, None
        shares, tokens = shares.topk(min(self.top_k or shares.shape[-1], shares.shape[-1]))
        if self.top_p is not None:
            shares = shares / shares.sum(-1, keepdim=True)
            before = shares.cumsum(-1) - shares
            shares = shares * (before < self.top_p)
        return shares, tokens

    def _uniform(self, position: int, logits: Tensor) -> Tensor:
        """Return a uniform random number in [0, 1) for each row: [batch], fp64."""
        if self._rows is None or self._rows.shape != logits.shape[:1] or self._rows.device != logits.device:
            rows = [digest(f"{self.seed}:generation:{row}") for row in range(len(logits))]
            self._rows = torch.tensor(rows, device=logits.device)
        key = derive_key(self._rows, "token", position)
        coarse, fine = uniform(key, (2,)).double().unbind(-1)
        return coarse + (fine - 0.5) * 2**-23


def _check(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{name}: expected {expected}, got {got}")
