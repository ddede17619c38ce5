"""The shares of several sources. Without numpy, since a spec's check asks for them."""

from __future__ import annotations

from collections.abc import Sequence

BLOCK = 4096
"""Sequences in which every source has exactly its share, rounded to whole sequences."""


def shares(weights: Sequence[float]) -> list[int]:
    """Divide a block among sources by weight, the largest remainders rounded up."""
    exact = [weight / sum(weights) * BLOCK for weight in weights]
    whole = [int(share) for share in exact]
    largest = sorted(range(len(exact)), key=lambda i: whole[i] - exact[i])
    for i in largest[: BLOCK - sum(whole)]:
        whole[i] += 1
    return whole
