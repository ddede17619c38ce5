"""Baselines of equal cost and sensible shape."""
