"""Modulation of each sublayer by the step's position among the steps."""

from blocks.wiring.step_code.modulation.config import Modulation

__all__ = ["Modulation"]
