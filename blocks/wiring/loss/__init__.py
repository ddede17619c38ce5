"""The loss of the model."""

from blocks.wiring.loss.config import LastStep

__all__ = ["LastStep"]
