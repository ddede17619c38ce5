"""Config and lowering of the feed-forward layer. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from blocks.base.builder import Builder
from blocks.base.config import BlockConfig
from blocks.base.fields import Width
from blocks.feed_forward.operations import GeGLU, GeluTanh, Relu, SquaredRelu, SwiGLU
from blocks.ir.operation import Value
from blocks.primitives.activations import Gelu

_ACTIVATIONS = {"gelu": Gelu, "gelu_tanh": GeluTanh, "relu": Relu, "relu2": SquaredRelu}
_GATED = {"swiglu": SwiGLU, "geglu": GeGLU}
_WORDS = {
    "swiglu": "SwiGLU",
    "gelu": "GELU",
    "gelu_tanh": "GELU (tanh)",
    "geglu": "GeGLU",
    "relu": "ReLU",
    "relu2": "ReLU²",
}


class FeedForward(BlockConfig):
    """Two layers with an activation between them, gated (arXiv 2002.05202) or not."""

    type: Literal["feed_forward"] = "feed_forward"
    hidden: Width
    """Hidden size."""
    activation: Literal["swiglu", "gelu", "gelu_tanh", "geglu", "relu", "relu2"] = "swiglu"
    """Activation; SwiGLU and GeGLU have a third weight matrix, the gate. GELU is exact or, as in GPT-2,
    approximated by tanh; `relu2` is the square of ReLU (arXiv 2109.08668).
    """

    def needs_all_tokens(self) -> str:
        """Each token goes through alone."""
        return ""

    def words(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe sizes and activation."""
        yield f"{width} → {fields.pop('hidden')} → {width}"
        yield _WORDS[fields.pop("activation")]

    def lower(self, build: Builder, x: Value) -> Value:
        """Project up, activate, project down."""
        name = self.activation
        up = build.project(x, "up", (self.hidden,))
        if name in _GATED:
            gate = build.project(x, "gate", (self.hidden,))
            y = build.op(name, _GATED[name](self.hidden), gate, up)
        else:
            y = build.op(name, _ACTIVATIONS[name](self.hidden), up)
        return build.project(y, "down", (build.width,), self.hidden, writes_residual=True)
