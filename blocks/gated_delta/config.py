"""Config and lowering of gated delta rule attention. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from blocks.base.attention import undivided
from blocks.base.builder import Builder
from blocks.base.config import BlockConfig, Problem
from blocks.base.fields import Count, Natural, Width
from blocks.ir.operation import ZEROS, Init, Value, Weight
from blocks.ir.tensor_type import Shape

_SLOWLY = Init("constant", -4.6)
"""Initially each token decays the state by 1 %: softplus(-4.6) is 0.01."""


class GatedDeltaNet(BlockConfig):
    """Linear attention by the gated delta rule: a state of fixed size per head (arXiv 2412.06464)."""

    other_names: ClassVar[Mapping[str, str]] = {
        "type": "deltanet delta_net gated_deltanet gated_delta_net gdn linear_attention",
        "value_dim": "head_v_dim v_head_dim",
        "convolution": "conv_size conv_kernel short_conv",
        "gate": "use_gate output_gate",
    }

    type: Literal["gated_delta"] = "gated_delta"
    heads: Count
    """The number of heads, each with its own state."""
    head_dim: Width | None = None
    """The size of keys and queries of one head. Default: width / heads."""
    value_dim: Width | None = None
    """The size of values of one head. Default: head_dim."""
    convolution: Annotated[Natural, Field(le=64)] = 4
    """The kernel size, in tokens, of a causal depthwise convolution of queries, keys and values, followed by
    SiLU; 0 for none. At most 64: it is meant to be short, and generation caches as many tokens."""
    gate: bool = True
    """Whether the normed output is multiplied by SiLU of a projection of the input."""

    def geometry(self, width: int) -> tuple[int, int, int]:
        """Return (heads, head_dim, value_dim) with the defaults filled in."""
        head_dim = self.head_dim or width // self.heads
        return self.heads, head_dim, self.value_dim or head_dim

    def canonical(self, width: int) -> dict[str, Any]:
        _, head_dim, value_dim = self.geometry(width)
        return {**super().canonical(width), "head_dim": head_dim, "value_dim": value_dim}

    def problems(self, width: int) -> Iterator[Problem]:
        """Check that heads divide the width where that gives their size."""
        if self.head_dim is None and width % self.heads:
            yield undivided(self.heads, width)

    def summary(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe the heads with their states, and what is around the rule."""
        heads, keys, values = (fields.pop(name) for name in ("heads", "head_dim", "value_dim"))
        yield f"{heads} {'state' if heads == 1 else 'states'} of {keys} \u00d7 {values}"
        size = fields.pop("convolution")
        yield f"convolutions of {size}" if size else "no convolutions"

    def crosses_documents(self) -> str:
        """The state and the convolutions go on."""
        return "its state holds what earlier documents wrote"

    def needs_all_tokens(self) -> str:
        """Return "": the order of the tokens is enough."""
        return ""

    def lower(self, build: Builder, x: Value) -> Value:
        """Make queries, keys, values and gates, mix through the state, norm, gate, project back."""
        from blocks.gated_delta.operations import GatedDelta
        from blocks.primitives.activations import SwiGLU

        heads, keys, values = self.geometry(build.width)
        scored = build.score_input(x)
        q, k = (self._convolved(build, scored, role, (heads, keys)) for role in ("query", "key"))
        v = self._convolved(build, x, "value", (heads, values))
        write, forget = (build.project(scored, role, (heads,)) for role in ("write", "forget"))
        weights = [
            Weight("rate", (heads,), ZEROS, decay=False),
            Weight("shift", (heads,), _SLOWLY, decay=False),
        ]
        y = build.op("mix", GatedDelta(heads, keys, values), q, k, v, write, forget, weights=weights)
        y = build.norm(y, "mix_norm", (heads, values))
        if self.gate:
            gate = build.project(x, "gate", (heads, values))
            y = build.op("gated", SwiGLU((heads, values)), gate, y)
        return build.project(y, "out", (build.width,), heads * values, writes_residual=True)

    def _convolved(self, build: Builder, x: Value, role: str, shape: Shape) -> Value:
        """Project, and convolve the result if asked to."""
        y, size = build.project(x, role, shape), self.convolution
        if not size:
            return y
        from blocks.gated_delta.convolution import ShortConvolution

        convolution = ShortConvolution(shape, size)
        (each,) = convolution.weight_shapes()
        weight = Weight(f"{role}_convolution", each, Init("normal", size**-0.5))
        return build.op(f"{role}_convolved", convolution, y, weights=[weight])
