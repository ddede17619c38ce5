"""Several residual streams: hyper-connections and what is made of them."""

from blocks.wiring.residual.streams.config import StreamResidual

__all__ = ["StreamResidual"]
