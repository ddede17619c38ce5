"""Several residual streams: hyper-connections and their variants."""

from blocks.wiring.residual.streams.config import StreamResidual

__all__ = ["StreamResidual"]
