"""Residual mixes: each sublayer reads a weighted sum of the outputs of earlier sublayers."""

from blocks.wiring.residual.mix.config import MixedResidual

__all__ = ["MixedResidual"]
