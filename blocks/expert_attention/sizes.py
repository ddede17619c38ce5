"""The number of rows of experts with equal numbers of rows. Torch-free."""

from __future__ import annotations

from blocks.ir.numbers import smallest


def rows_per_expert(tokens: int, experts: int, active: int, capacity: float = 1) -> float:
    """Return the rows per expert and sequence: `capacity` times an equal share, at most all tokens."""
    return smallest(-(-(capacity * tokens * active) // experts), tokens)
