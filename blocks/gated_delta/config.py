"""Config and lowering of gated delta rule attention. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from blocks.base.builder import Builder
from blocks.base.config import BlockConfig, Problem
from blocks.base.fields import Count, Width
from blocks.gated_delta.operations import GatedDelta
from blocks.ir.operation import ZEROS, Value, Weight


class GatedDeltaNet(BlockConfig):
    """Linear attention by the gated delta rule: a state of fixed size per head (arXiv 2412.06464)."""

    type: Literal["gated_delta"] = "gated_delta"
    heads: Count
    """Heads, each with a state of its own."""
    head_dim: Width | None = None
    """Elements of a key and a query of one head. Default: width / heads."""
    value_dim: Width | None = None
    """Elements of a value of one head. Default: head_dim."""

    def geometry(self, width: int) -> tuple[int, int, int]:
        """Return (heads, head_dim, value_dim) with the defaults filled in."""
        head_dim = self.head_dim or width // self.heads
        return self.heads, head_dim, self.value_dim or head_dim

    def canonical(self, width: int) -> dict[str, Any]:
        """Return the fields with the defaults filled in."""
        _, head_dim, value_dim = self.geometry(width)
        return {**super().canonical(width), "head_dim": head_dim, "value_dim": value_dim}

    def problems(self, width: int) -> Iterator[Problem]:
        """Check that heads divide the width where that gives their size."""
        if self.head_dim is None and width % self.heads:
            hint = "or give head_dim, which frees heads from the width"
            yield Problem("heads", f"a divisor of the width ({width})", self.heads, hint)

    def words(self, fields: dict[str, Any], width: int) -> Iterator[str]:
        """Describe the heads and their states."""
        heads, keys, values = (fields.pop(name) for name in ("heads", "head_dim", "value_dim"))
        yield f"{heads} {'state' if heads == 1 else 'states'} of {keys} \u00d7 {values}"

    def lower(self, build: Builder, x: Value) -> Value:
        """Make queries, keys, values and gates, mix through the state, norm, project back."""
        heads, keys, values = self.geometry(build.width)
        scored = build.score_input(x)
        q, k = (build.project(scored, role, (heads, keys)) for role in ("query", "key"))
        v = build.project(x, "value", (heads, values))
        write, forget = (build.project(scored, role, (heads,)) for role in ("write", "forget"))
        weights = [Weight(role, (heads,), ZEROS, decay=False) for role in ("rate", "shift")]
        y = build.op("mix", GatedDelta(heads, keys, values), q, k, v, write, forget, weights=weights)
        y = build.norm(y, "mix_norm", (heads, values))
        return build.project(y, "out", (build.width,), heads * values, writes_residual=True)
