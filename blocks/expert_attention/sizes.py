"""How many rows an expert runs where all run the same number. Torch-free."""

from __future__ import annotations

from blocks.ir.numbers import smallest


def rows_per_expert(tokens: int, experts: int, active: int, capacity: float = 1) -> float:
    """Return the rows of each expert for a sequence: `capacity` times its share, and at most all tokens."""
    return smallest(-(-(capacity * tokens * active) // experts), tokens)
