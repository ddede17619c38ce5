"""Residual connections with a learned gate on each update."""

from blocks.wiring.residual.gate.config import GatedResidual

__all__ = ["GatedResidual"]
