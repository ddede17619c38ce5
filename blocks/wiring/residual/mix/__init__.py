"""Residual mixes: each sublayer reads a weighted sum of the outputs of all earlier ones."""

from blocks.wiring.residual.mix.config import MixedResidual

__all__ = ["MixedResidual"]
