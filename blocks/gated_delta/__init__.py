"""Linear attention by the gated delta rule."""

from blocks.gated_delta.config import GatedDeltaNet

__all__ = ["GatedDeltaNet"]
