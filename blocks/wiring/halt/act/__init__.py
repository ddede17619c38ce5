"""Adaptive computation time."""

from blocks.wiring.halt.act.config import AdaptiveComputationTime

__all__ = ["AdaptiveComputationTime"]
