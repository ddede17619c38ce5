"""Config and lowering of the feed-forward layer. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from blocks.base.builder import Builder
from blocks.base.config import BlockConfig
from blocks.base.fields import Width
from blocks.feed_forward.operations import Gelu, SwiGLU
from blocks.ir.operation import Value


class FeedForward(BlockConfig):
    """Two layers without biases, with a gate between them (SwiGLU, arXiv 2002.05202) or GELU."""

    type: Literal["feed_forward"] = "feed_forward"
    hidden: Width
    """Hidden size."""
    activation: Literal["swiglu", "gelu"] = "swiglu"
    """Activation; SwiGLU has a third weight matrix, the gate."""

    def words(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe sizes and activation."""
        yield f"{width} → {fields.pop('hidden')} → {width}"
        yield {"swiglu": "SwiGLU", "gelu": "GELU"}[fields.pop("activation")]

    def lower(self, build: Builder, x: Value) -> Value:
        """Project up, activate, project down."""
        up = build.project(x, "up", (self.hidden,))
        if self.activation == "swiglu":
            gate = build.project(x, "gate", (self.hidden,))
            y = build.op("swiglu", SwiGLU(self.hidden), gate, up)
        else:
            y = build.op("gelu", Gelu(self.hidden), up)
        return build.project(y, "down", (build.width,), self.hidden, writes_residual=True)
